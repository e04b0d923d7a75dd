"""Small files of the stream's log made into large ones: few per table and day, whatever the number of ranges.

A file is merged with those behind it once they hold half as many rows as it does: so a row is written again a number of
times that grows with the logarithm of the rows of its day.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from features.schemas import FEATURE_LOG, LOG_TABLES, PAGE_LOG
from features.workspace import WRITING, Workspace, conform
from pipelines.streaming.log import LOG, STREAM, LogFile, Range, together, write_durably

LARGE_ROWS, LARGE_WIDE_ROWS = 1_000_000, 50_000
"""A file of this many rows is left alone; pages, and what was read for them, take some KB each in memory."""
_WIDE = (PAGE_LOG, FEATURE_LOG)


def file_path(folder: str, first: int, last: int) -> str:
    """Return the path of a file of a range; files of a folder sort by position.

    Example:
        >>> file_path("event_log/date=2026-01-31", 7, 12)
        'event_log/date=2026-01-31/00000000000000000007-00000000000000000012.parquet'
    """
    return f"{folder}/{first:020d}-{last:020d}.parquet"


def write_log_file(workspace: Workspace, folder: str, first: int, last: int, rows: pa.Table) -> LogFile:
    """Write a file of the log; it counts once its range is done."""
    path = file_path(folder, first, last)
    table = path.split("/")[0]
    sink = pa.BufferOutputStream()
    pq.write_table(conform(rows, LOG_TABLES[table], table), sink, compression="zstd")
    write_durably(workspace, workspace.path(STREAM, LOG, path), sink.getvalue())
    return LogFile(path=path, rows=rows.num_rows)


def compact(workspace: Workspace, compacted: Range, done: Sequence[Range]) -> Range:
    """Merge the files of done ranges, with those that were compacted before where these are small; nothing is deleted.

    Args:
        workspace: Where the log is.
        compacted: What was compacted before.
        done: The ranges behind it, at least one.
    """
    merged = together([compacted, *done] if compacted.last else done)
    folders: dict[str, list[LogFile]] = {}
    for file in merged.files:
        folders.setdefault(file.path.rsplit("/", 1)[0], []).append(file)
    files = [file for folder, parts in sorted(folders.items()) for file in _merge(workspace, folder, parts)]
    return dataclasses.replace(merged, files=tuple(files))


def replaced_files(workspace: Workspace, compacted: Range) -> list[str]:
    """Return the paths of files that are no part of the log: of done ranges not any more, half written ones never.

    Args:
        workspace: Where the log is.
        compacted: All ranges up to some position; files behind it are not looked at.
    """
    root = workspace.path(STREAM, LOG)
    kept = {f"{root}/{file.path}" for file in compacted.files}
    found = workspace.filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    paths = [info.path for info in found if info.extension == "parquet" and info.path not in kept]
    unfinished = [info.path for info in found if info.base_name.startswith(WRITING)]  # who wrote it was killed
    return [*unfinished, *(path for path in paths if _positions(path)[1] <= compacted.last)]


def _merge(workspace: Workspace, folder: str, files: Sequence[LogFile]) -> list[LogFile]:
    """Return the files of a folder, its newest ones merged into one."""
    ordered = sorted(files, key=lambda file: file.path)
    start, rows = len(ordered) - 1, ordered[-1].rows
    large = LARGE_WIDE_ROWS if ordered[-1].table in _WIDE else LARGE_ROWS
    while start and ordered[start - 1].rows < min(large, 2 * rows + 1):
        start -= 1
        rows += ordered[start].rows
    if start == len(ordered) - 1:
        return ordered
    merged = ordered[start:]
    paths = [workspace.path(STREAM, LOG, file.path) for file in merged]
    table = ds.dataset(paths, schema=LOG_TABLES[merged[0].table], filesystem=workspace.filesystem).to_table()
    first, last = _positions(merged[0].path)[0], _positions(merged[-1].path)[1]
    return [*ordered[:start], write_log_file(workspace, folder, first, last, table)]


def _positions(path: str) -> tuple[int, int]:
    first, last = path.rsplit("/", 1)[1].removesuffix(".parquet").split("-")
    return int(first), int(last)
