"""The stream's log in a workspace: which files hold what was taken from the stream, exactly once.

::

    stream/
        ranges/<last position>.json   a range that is open (being worked on) or done, with the files it wrote
        compacted.json                what the ranges before say together, and their files
        log/<table>/date=YYYY-MM-DD/<first>-<last>.parquet

Files become part of the log when their range is marked done, in one step; others are never seen. Tables are those of
`features.schemas.LOG_TABLES`, days those of the rows' own times (UTC).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from features.schemas import LOG_TABLES
from features.workspace import Workspace, sync_folder, write_atomically

STREAM, RANGES, LOG, COMPACTED = "stream", "ranges", "log", "compacted.json"
READ_TRIES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogFile:
    """A file of the log: `path` relative to `stream/log`, beginning with the table's name, and its number of `rows`."""

    path: str
    rows: int

    @property
    def table(self) -> str:
        """The table it belongs to."""
        return self.path.split("/")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Messages taken up together.

    Attributes:
        first: Position of the first message.
        last: Position of the last message.
        opened: When it was opened, milliseconds since 1970 UTC: the clock by which rows are from the future.
        watermark: Time of the newest event before it; 0 for none. Lateness is counted from there.
        done: Whether files and features are written.
        newest: The watermark behind it, known when it is done.
        files: What it wrote.
        counts: Rows in, logged, implied, duplicates, dropped by reason; by `<table>.<what>`.
    """

    first: int
    last: int
    opened: int
    watermark: int
    done: bool = False
    newest: int = 0
    files: tuple[LogFile, ...] = ()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> bytes:
        """Serialise."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what `to_json` wrote."""
        document = json.loads(text)
        document["files"] = tuple(LogFile(**file) for file in document["files"])
        return cls(**document)


NOTHING = Range(first=0, last=0, opened=0, watermark=0, done=True)
"""What a log without ranges comes to."""


def together(ranges: Sequence[Range]) -> Range:
    """Return what done ranges in a row come to, as one."""
    counts = Counter[str]()
    for part in ranges:
        counts.update(part.counts)
    return dataclasses.replace(
        ranges[-1],
        first=ranges[0].first,
        watermark=ranges[0].watermark,
        newest=max(part.newest for part in ranges),
        files=tuple(file for part in ranges for file in part.files),
        counts=dict(counts),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSnapshot:
    """What the log holds at a moment; the files stay for at least an hour after, unless users are forgotten.

    Attributes:
        files: Paths on the workspace's filesystem, by table, for every table of `LOG_TABLES`.
        position: Everything up to this position of the stream is in them.
        watermark: Time of the newest event, milliseconds since 1970 UTC; 0 for none.
        counts: As in `Range`, of all that was ever taken up.
    """

    files: Mapping[str, Sequence[str]]
    position: int
    watermark: int
    counts: Mapping[str, int]

    def dataset(self, workspace: Workspace, table: str) -> ds.Dataset:
        """Return a table of the log as an Arrow dataset."""
        schema, files = LOG_TABLES[table], list(self.files[table])
        if not files:
            return ds.dataset(schema.empty_table())
        return ds.dataset(files, schema=schema, format="parquet", filesystem=workspace.filesystem)

    def read(self, workspace: Workspace, table: str) -> pa.Table:
        """Return all rows of a table of the log."""
        return self.dataset(workspace, table).to_table()


def committed_log(workspace: Workspace) -> LogSnapshot:
    """Return what the stream's log holds; empty where no stream was ever taken up."""
    compacted, ranges = read_ranges(workspace)
    return _snapshot(workspace, together([compacted, *(found for found in ranges if found.done)]))


def empty_log(workspace: Workspace) -> LogSnapshot:
    """Return a log that holds nothing."""
    return _snapshot(workspace, NOTHING)


def _snapshot(workspace: Workspace, done: Range) -> LogSnapshot:
    files: dict[str, list[str]] = {table: [] for table in LOG_TABLES}
    for file in done.files:
        files[file.table].append(workspace.path(STREAM, LOG, file.path))
    return LogSnapshot(files=files, position=done.last, watermark=done.newest, counts=done.counts)


def read_ranges(workspace: Workspace) -> tuple[Range, list[Range]]:
    """Return what was compacted, and the ranges behind it in order; only the last may be open.

    Raises:
        ValueError: A file of the log is damaged.
    """
    for attempt in range(READ_TRIES):
        compacted = _read(workspace, workspace.path(STREAM, COMPACTED)) or NOTHING
        ranges = [_read(workspace, path) for path in range_files(workspace) if position_of_file(path) > compacted.last]
        again = _read(workspace, workspace.path(STREAM, COMPACTED)) or NOTHING
        if again.last == compacted.last:
            return compacted, [found for found in ranges if found is not None]
        time.sleep(0.01 * attempt)
    raise RuntimeError(f"{workspace.path(STREAM)}: expected it to stay while it was read, but it kept changing")


def range_file(workspace: Workspace, last: int) -> str:
    """Return the path of the file of the range that ends at a position."""
    return workspace.path(STREAM, RANGES, f"{last:020d}.json")


def range_files(workspace: Workspace) -> list[str]:
    """Return the paths of the files of all ranges, in order."""
    folder = pafs.FileSelector(workspace.path(STREAM, RANGES), allow_not_found=True)
    return sorted(info.path for info in workspace.filesystem.get_file_info(folder) if info.extension == "json")


def position_of_file(path: str) -> int:
    """Return the position at which the range of a file ends."""
    return int(path.rsplit("/", 1)[1].removesuffix(".json"))


def write_durably(workspace: Workspace, path: str, content: bytes | pa.Buffer) -> None:
    """Write a file whole, so that it is there, and under its name, even after a power cut."""
    new = workspace.is_local and not os.path.isdir(os.path.dirname(path))
    write_atomically(workspace.filesystem, path, content)
    if not workspace.is_local:
        return
    folder, root = os.path.dirname(path), workspace.root
    sync_folder(folder)
    while new and folder != root:  # a folder is there after a power cut once its parent knows it
        folder = os.path.dirname(folder)
        sync_folder(folder)


def write_for_now(workspace: Workspace, path: str, content: bytes) -> None:
    """Write a file whole that only this run of the pipeline reads: a power cut may take it."""
    write_atomically(workspace.filesystem, path, content, durable=False)


def _read(workspace: Workspace, path: str) -> Range | None:
    """Return a range's file; None where it is gone, as files of compacted ranges are."""
    try:
        with workspace.filesystem.open_input_stream(path) as stream:
            text = bytes(stream.read())
    except FileNotFoundError:
        return None
    try:
        return Range.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected what `pagewise stream` wrote, but it is damaged ({error}); bring it back from a copy: "
            "without it nobody knows which rows of the stream's log count"
        ) from error
