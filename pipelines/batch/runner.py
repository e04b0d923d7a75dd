"""Running a pipeline: which runner, what is refused, and how its results come back to the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from features.workspace import FileEntry, Workspace
from pipelines.batch.raw import UnreadableFileError

DEFAULT_RUNNER = "FnApiRunner"


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that a worker wrote, waiting to be committed."""

    table: str
    entry: FileEntry


@dataclasses.dataclass(frozen=True)
class Counted:
    """A number of rows under a name such as `events.in`."""

    name: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Touched:
    """A day of a table whose file, if it still has one, is written anew."""

    table: str
    date: str


Result = Written | Counted | Touched


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a pipeline wrote and counted."""

    files: dict[str, list[FileEntry]]
    counts: dict[str, int]
    days: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Table -> days that were written anew, of tables that others were added to."""

    def rows(self, table: str) -> int:
        """Rows written to a table."""
        return sum(entry.rows for entry in self.files.get(table, []))

    def count(self, name: str) -> int:
        """Rows counted under a name, 0 if none."""
        return self.counts.get(name, 0)

    def touched(self, table: str) -> set[str]:
        """Days of a table that were written anew."""
        return set(self.days.get(table, []))


def pipeline_options(flags: Sequence[str]) -> PipelineOptions:
    """Read Beam's options, with the in-process `FnApiRunner` as the default runner.

    Args:
        flags: Beam's own options, such as `["--runner=FlinkRunner", "--flink_master=host:8081"]`.

    Raises:
        ValueError: The flags ask for something known to lose data or to fetch binaries from the network.
    """
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = DEFAULT_RUNNER
    if standard.runner in ("DirectRunner", "SwitchingDirectRunner"):
        raise ValueError(
            f"--runner={standard.runner}: this name makes Beam try to download another runner first; "
            f"expected {DEFAULT_RUNNER} (the default, in this process) or a cluster's runner"
        )
    if options.view_as(DirectOptions).direct_running_mode == "multi_threading":
        raise ValueError(
            "--direct_running_mode=multi_threading silently loses rows in Beam 2.77; "
            "expected in_memory (the default) or multi_processing with --direct_num_workers=N"
        )
    return options


@contextlib.contextmanager
def running_pipeline(flags: Sequence[str]) -> Iterator[beam.Pipeline]:
    """Build a pipeline inside the block; it runs when the block ends.

    Raises:
        UnreadableFileError: A worker found a truncated or corrupt file.
    """
    pipeline = beam.Pipeline(options=pipeline_options(flags))
    yield pipeline
    # Beam logs every exception with its whole graph before it raises it; what is raised says enough.
    worker_log = logging.getLogger("apache_beam")
    level = worker_log.level
    worker_log.setLevel(logging.CRITICAL)
    try:
        pipeline.run().wait_until_finish()
    except (RuntimeError, ValueError) as error:
        raise _original(error) from error
    finally:
        worker_log.setLevel(level)


def write_summary(results: beam.PCollection, uri: str, *path: str) -> None:
    """Collect `Written`, `Counted` and `Touched` elements into one file, which `read_summary` reads."""
    first = results.pipeline | "at least one result" >> beam.Create([Touched("", "")])
    _ = (
        (first, results)
        | "all results" >> beam.Flatten()
        | "count rows" >> beam.Map(_count)
        # One key instead of a CombineGlobally, which would double the number of transforms.
        | "collect" >> beam.GroupByKey()
        | "write summary" >> beam.Map(_write_summary, uri, path)
    )


def read_summary(workspace: Workspace, *path: str) -> Summary:
    """Read what `write_summary` wrote."""
    document = json.loads(workspace.read_bytes(*path))
    files = {table: [FileEntry(**entry) for entry in entries] for table, entries in document["files"].items()}
    document["days"].pop("")
    return Summary(files, document["counts"], document["days"])


def _count(result: Result) -> tuple[int, Result]:
    if isinstance(result, Counted):
        beam.metrics.Metrics.counter("pagewise", result.name).inc(result.rows)
    return 0, result


def _write_summary(keyed: tuple[int, Iterable[Result]], uri: str, path: tuple[str, ...]) -> None:
    files: dict[str, list[dict[str, str | int]]] = {}
    counts: dict[str, int] = {}
    days: dict[str, list[str]] = {}
    for result in keyed[1]:
        if isinstance(result, Counted):
            counts[result.name] = counts.get(result.name, 0) + result.rows
        elif isinstance(result, Touched):
            days.setdefault(result.table, []).append(result.date)
        else:
            files.setdefault(result.table, []).append(dataclasses.asdict(result.entry))
    Workspace(uri).write_bytes(json.dumps({"files": files, "counts": counts, "days": days}).encode(), *path)


def _original(error: Exception) -> Exception:
    """Find the user's mistake in an error of Beam's, which other processes hand over as text and tracebacks."""
    text = re.sub(r" \[while running .*", "", str(error), flags=re.DOTALL)
    for kind in (UnreadableFileError, ValueError):
        if isinstance(error, kind):
            return kind(text)
        found = re.findall(rf"^(?:[\w.]+\.)?{kind.__name__}: (.*)$", text, flags=re.MULTILINE)
        if found:
            return kind(found[-1])
    return error
