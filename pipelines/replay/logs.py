"""Logged pages as Parquet: which files, which of their pages count, and what must be known before one is judged.

Legend: `R` rows of a file, `I` request ids.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from features.schemas import PAGES
from features.workspace import Workspace, conform
from kernels.hashing import hash_strings
from pipelines.batch.arrow import DAY_MS, milliseconds

ROWS = 2048
"""Pages judged at a time: with a hundred candidates each, some ten MB."""
IDS_AT_ONCE = 1 << 22
"""Request ids of which one worker finds those that come twice: 64 MiB, whatever the size of the log."""
_HOUR_MS = 3_600_000

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedPages:
    """Files of logged pages, and which of their pages count.

    Attributes:
        uri: What `open_workspace` opens to read them.
        files: Paths on its filesystem, in order.
        rows: Pages in the files.
        fingerprint: Digest of which files these are.
        since_ms: First moment of pages that count, milliseconds since 1970 UTC.
        before_ms: The moment from which on they do not: they are not final, or not asked for.
        slots: Items of the longest page.
    """

    uri: str
    files: tuple[str, ...]
    rows: int
    fingerprint: str
    since_ms: int
    before_ms: int
    slots: int

    def last_day(self) -> str:
        """Return the day of the last pages that can count, `YYYY-MM-DD`."""
        return _iso(self.before_ms - 1)[:10]

    def window(self) -> str:
        """Return the first and the last moment as a text."""
        return f"{_iso(self.since_ms)} to {_iso(self.before_ms)}"


def find_logs(workspace: Workspace, logs: str | None) -> tuple[str, list[str], str]:
    """Return what opens the filesystem, the Parquet files of the logs, and a digest of them.

    Args:
        workspace: Its table `pages` is the log where no other is named.
        logs: A file or a folder, a path or a URI; every `*.parquet` below a folder counts.

    Raises:
        FileNotFoundError: There is no such file, or none in the folder.
        ValueError: The files are none of Parquet.
    """
    if logs is None:
        table = workspace.table("pages")
        files, digest = table.files(), table.manifest().fingerprint
        if not files:
            raise ValueError(f"{table.root}: expected logged pages, got an empty table; there is nothing to replay")
        return (workspace.root if workspace.is_local else workspace.uri), files, digest
    place = Workspace(logs)
    found = _parquet_files(place, logs)
    lines = [f"{os.path.relpath(info.path, place.root)} {info.size} {info.mtime_ns}" for info in found]
    return (
        place.root if place.is_local else place.uri,
        [info.path for info in found],
        hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
    )


def survey(
    workspace: Workspace, logs: str | None, *, since: str | None, until: str | None, hours: float, first_ms: int = 0
) -> LoggedPages:
    """Look at the logs' columns of times and sizes, file by file.

    Args:
        workspace: See `find_logs`.
        logs: See `find_logs`.
        since: First day, `YYYY-MM-DD` UTC; None for `first_ms`.
        until: Last day; None for the last final pages.
        hours: A page is final when so much time lies between it and the newest event of the log; events that come
            later than that after their page tell nothing about it.
        first_ms: Where pages begin to count if no day is named.

    Raises:
        FileNotFoundError: There are no logs.
        ValueError: They are no pages, or none of them counts.
    """
    uri, files, digest = find_logs(workspace, logs)
    filesystem = Workspace(uri).filesystem
    rows, newest, oldest, slots = 0, 0, np.iinfo(np.int64).max, 0
    for path in files:
        for part in read_pages(filesystem, path, ["timestamp", "items", "event_times"]):
            times = milliseconds(part.column("timestamp"))
            rows, oldest = rows + len(times), min(oldest, int(times.min()))
            newest = max(newest, int(times.max()), _newest_event(part, times, hours))
            slots = max(slots, pc.max(pc.list_value_length(part.column("items"))).as_py() or 0)
    if not rows:
        raise ValueError(f"{logs or workspace.table('pages').root}: expected logged pages, got none; nothing to replay")
    since_ms = first_ms if since is None else _day("since", since)
    before_ms = newest - round(hours * _HOUR_MS) + 1
    if until is not None:
        before_ms = min(before_ms, _day("until", until) + DAY_MS)
    if before_ms <= max(since_ms, oldest):
        raise ValueError(
            f"expected final pages from {_iso(max(since_ms, oldest))} on, but only pages before {_iso(before_ms)} are "
            f"final: the log's newest event is of {_iso(newest)}, and replay.attribution_hours = {hours:g}; wait for "
            "newer events, or set replay.since, replay.until or replay.attribution_hours"
        )
    return LoggedPages(
        uri=uri,
        files=tuple(files),
        rows=rows,
        fingerprint=digest,
        since_ms=max(since_ms, oldest),
        before_ms=before_ms,
        slots=max(slots, 1),
    )


def _newest_event(pages: pa.Table, times_R: Rows, hours: float) -> int:
    """Return when the last of the events happened that came within so many hours of their page, 0 if none did.

    One event with a wrong clock would make every page final.
    """
    times = pages.column("event_times")
    shown_X = np.repeat(times_R, np.asarray(pc.fill_null(pc.list_value_length(times), 0)))
    events_X = np.asarray(pc.fill_null(pc.list_flatten(times).cast(pa.int64()), 0))
    return int(events_X[events_X - shown_X <= hours * _HOUR_MS].max(initial=0))


def read_pages(filesystem: pafs.FileSystem, path: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the pages of a file in its order, `ROWS` at a time, in the schema of pages (or these columns of it).

    Raises:
        ValueError: It is no Parquet file, or lacks a column that every page has.
    """
    schema = PAGES if columns is None else pa.schema([PAGES.field(name) for name in columns])
    try:
        with filesystem.open_input_file(path) as handle:
            file = pq.ParquetFile(handle)
            known = [name for name in schema.names if name in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS, columns=known):
                yield conform(pa.Table.from_batches([batch]), schema, f"pages ({path})")
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a Parquet file of pages; {error}") from error


def counted_pages(
    logs: LoggedPages, path: str, repeated: Rows, columns: Sequence[str] | None = None
) -> Iterator[tuple[pa.Table, int]]:
    """Yield the pages of a file that count, of the window and each once; beside them how many were repeated.

    Args:
        logs: Which pages count.
        path: One of its files.
        repeated: Rows of the file with pages that came before.
        columns: What to read, with `timestamp`; default everything.
    """
    start = 0
    for part in read_pages(Workspace(logs.uri).filesystem, path, columns):
        times_R = milliseconds(part.column("timestamp"))
        of_window_R = (times_R >= logs.since_ms) & (times_R < logs.before_ms)
        again_R = np.isin(np.arange(start, start + len(times_R)), repeated)
        start += len(times_R)
        if of_window_R.any():
            yield part.filter(pa.array(of_window_R & ~again_R)), int((of_window_R & again_R).sum())


def repeated_pages(logs: LoggedPages, part: int, parts: int) -> dict[str, Rows]:
    """Return path -> rows of pages whose id stood in an earlier row, or an earlier file.

    Ids are looked at by their hashes, those of one part of them at a time: memory does not grow with the logs.

    Args:
        logs: All files.
        part: Which of the parts.
        parts: So many; see `IDS_AT_ONCE`.
    """
    filesystem = Workspace(logs.uri).filesystem
    hashes, files, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, path in enumerate(logs.files):
        start = 0
        for batch in read_pages(filesystem, path, ["request_id"]):
            hash_R = hash_strings(batch.column("request_id"))
            mine = np.flatnonzero(hash_R % np.uint64(parts) == part)
            hashes.append(hash_R[mine])
            files.append(np.full(len(mine), number))
            rows.append(start + mine)
            start += len(hash_R)
    hash_I, file_I, row_I = np.concatenate(hashes), np.concatenate(files), np.concatenate(rows)
    order_I = np.argsort(hash_I, kind="stable")
    again = order_I[1:][hash_I[order_I][1:] == hash_I[order_I][:-1]]
    return {logs.files[number]: np.sort(row_I[again][file_I[again] == number]) for number in np.unique(file_I[again])}


def repeated_of(path: str, repeated: Iterable[tuple[str, Rows]]) -> Rows:
    """Return the rows of one file among those of all."""
    found = [rows for other, rows in repeated if other == path]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _parquet_files(place: Workspace, logs: str) -> list[pafs.FileInfo]:
    info = place.filesystem.get_file_info(place.root)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(f"logs {logs}: expected Parquet files of pages, there is nothing")
    if info.type == pafs.FileType.File:
        return [info]
    below = place.filesystem.get_file_info(pafs.FileSelector(place.root, recursive=True))
    found = sorted((one for one in below if one.path.endswith(".parquet")), key=lambda one: one.path)
    if not found:
        raise FileNotFoundError(f"logs {logs}: expected files *.parquet of pages, there are none in this folder")
    return found


def _day(name: str, text: str) -> int:
    try:
        return int(dt.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=dt.UTC).timestamp()) * 1000
    except ValueError as error:
        raise ValueError(f"replay.{name}: expected a day, YYYY-MM-DD, got {text!r}") from error


def _iso(time: int) -> str:
    return dt.datetime.fromtimestamp(time / 1000, dt.UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
