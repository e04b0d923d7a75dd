"""Files of logged pages -> sums, the Beam side: pages are judged file by file and added up where they were judged.

What travels between workers are sums, a few MB each, never pages.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Self

import apache_beam as beam
import numpy as np
import pyarrow.compute as pc
from apache_beam.pvalue import AsList

from features.schemas import DUPLICATE
from pipelines.replay.calibration import Calibration
from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics
from pipelines.replay.judging import Judge, JudgeJob
from pipelines.replay.logs import IDS_AT_ONCE, LoggedPages, Rows, counted_pages, repeated_of, repeated_pages
from pipelines.replay.rounds import Rounds
from pipelines.replay.skew import Skew
from pipelines.replay.state import packed, unpacked
from pipelines.replay.tally import Tally
from pipelines.replay.usable import usable


class Repeated(beam.PTransform):
    """Logs -> (file, rows of it) with pages that came before, part of all ids by part.

    Args:
        logs: The pages.
    """

    def __init__(self, logs: LoggedPages) -> None:
        super().__init__()
        self.logs = logs

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Look at the ids of all files once for each part."""
        parts = -(-self.logs.rows // IDS_AT_ONCE)
        return start | "parts" >> beam.Create(range(parts)) | "find" >> beam.FlatMap(_repeated, self.logs, parts)


def _repeated(part: int, logs: LoggedPages, parts: int) -> Iterator[tuple[str, Rows]]:
    yield from repeated_pages(logs, part, parts).items()


@dataclasses.dataclass(frozen=True)
class KeyedJob:
    """How to judge, and a name that tells it from other jobs: workers prepare it once."""

    digest: str
    job: JudgeJob = dataclasses.field(compare=False)


@dataclasses.dataclass
class ReplaySums:
    """All that is added up of judged pages.

    Attributes:
        tally: What estimates are made of.
        diagnostics: What gates and slices are made of.
        logged_by: Pages by the policy that made them.
        unknown: Shown items whose chances by position nobody knows (`judging.Skew`).
    """

    tally: Tally
    diagnostics: Diagnostics
    logged_by: Counter[str]
    unknown: int = 0

    @classmethod
    def empty(cls, config: ReplayConfig, slots: int) -> Self:
        """Return sums of no page."""
        return cls(Tally.empty(config, slots), Diagnostics.empty(config, slots), Counter())

    def add(self, judged: JudgedPages, config: ReplayConfig) -> None:
        """Add pages."""
        if judged.repeated:
            self.diagnostics.note({DUPLICATE: judged.repeated})
        if judged.rounds is None:
            return
        pages, bad = usable(judged.rounds, config)
        self.diagnostics.note(bad)
        self.diagnostics.note_skew(judged.skew)
        self.diagnostics.note_calibration(judged.calibration)
        self.tally.add(pages)
        self.diagnostics.add(pages)
        self.logged_by.update(judged.logged_by)
        self.unknown += judged.skew.unknown

    def merge(self, other: ReplaySums) -> ReplaySums:
        """Add the pages of others, and return this."""
        self.tally.merge(other.tally)
        self.diagnostics.merge(other.diagnostics)
        self.logged_by.update(other.logged_by)
        self.unknown += other.unknown
        return self

    def to_bytes(self) -> bytes:
        """Serialise."""
        others = {"logged_by": self.logged_by, "unknown": self.unknown}
        parts = {
            "tally": self.tally.to_bytes(),
            "diagnostics": packed(self.diagnostics),
            "others": json.dumps(others).encode(),
        }
        arrays: dict[str, Any] = {name: np.frombuffer(part, dtype=np.uint8) for name, part in parts.items()}
        content = io.BytesIO()
        np.savez(content, **arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, config: ReplayConfig, slots: int) -> Self:
        """Return the sums that `to_bytes` wrote, of the same options."""
        with np.load(io.BytesIO(content)) as parts:
            others = json.loads(parts["others"].tobytes())
            return cls(
                tally=Tally.from_bytes(parts["tally"].tobytes()),
                diagnostics=unpacked(parts["diagnostics"].tobytes(), Diagnostics.empty(config, slots)),
                logged_by=Counter(others["logged_by"]),
                unknown=others["unknown"],
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedPages:
    """Some pages of a file, judged.

    Attributes:
        rounds: Of each page; None for no page.
        skew: What was found out about their propensities.
        calibration: What was shown, by what the propensities say.
        repeated: Pages of the window beside them that came before.
        logged_by: Pages by the policy that made them.
    """

    rounds: Rounds | None
    skew: Skew
    calibration: Calibration
    repeated: int
    logged_by: Counter[str]


class SumPages(beam.PTransform):
    """Logged pages -> one `ReplaySums`.

    Args:
        logs: The pages.
        job: How to judge.
    """

    def __init__(self, logs: LoggedPages, job: KeyedJob) -> None:
        super().__init__()
        self.logs, self.job = logs, job

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Judge file by file; sums are merged within a worker before they travel."""
        repeated = AsList(start | "repeated" >> Repeated(self.logs))
        return (
            start
            | "files" >> beam.Create(self.logs.files)
            | "judge" >> beam.FlatMap(judged_pages, self.logs, self.job, repeated)
            | "add up" >> beam.CombineGlobally(AddUp(self.job.job.config, self.logs.slots))
        )


def judged_pages(
    path: str, logs: LoggedPages, job: KeyedJob, repeated: Sequence[tuple[str, Rows]]
) -> Iterator[JudgedPages]:
    """Yield the pages of a file that count, judged, some thousand at a time."""
    judge = the_judge(job)
    for pages, again in counted_pages(logs, path, repeated_of(path, repeated)):
        judge.skew, judge.calibration, rounds, logged_by = Skew(), Calibration(), None, Counter[str]()
        if pages.num_rows:
            rounds = judge.rounds(pages)
            names = pc.value_counts(pages.column("policy")).to_pylist()
            logged_by.update({one["values"] or "unknown": one["counts"] for one in names})
        yield JudgedPages(
            rounds=rounds, skew=judge.skew, calibration=judge.calibration, repeated=again, logged_by=logged_by
        )


@lru_cache(maxsize=1)
def the_judge(job: KeyedJob) -> Judge:
    """Return who judges; releases are loaded once per process."""
    return Judge(job.job)


class AddUp(beam.CombineFn):
    """`JudgedPages` -> `ReplaySums`.

    Args:
        config: Of the replay.
        slots: Of the longest page.
    """

    def __init__(self, config: ReplayConfig, slots: int) -> None:
        self.config, self.slots = config, slots

    def create_accumulator(self) -> ReplaySums:
        """Return sums of no page."""
        return ReplaySums.empty(self.config, self.slots)

    def add_input(self, sums: ReplaySums, judged: JudgedPages) -> ReplaySums:
        """Add pages."""
        sums.add(judged, self.config)
        return sums

    def merge_accumulators(self, parts: Iterable[ReplaySums]) -> ReplaySums:
        """Merge all parts."""
        return functools.reduce(ReplaySums.merge, parts, self.create_accumulator())

    def extract_output(self, sums: ReplaySums) -> ReplaySums:
        """Return them."""
        return sums
