"""A user's own raw files without some persons; everything else in them stays as it is, byte for byte.

JSON lines that are none go, too, where they contain one of the ids: `pagewise validate` would file them as they are.
Parquet files keep their schema. Files are held in memory one at a time.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from features.schemas import RAW_TABLES
from features.workspace import Workspace, write_atomically
from pipelines.batch.parse import parse_values
from pipelines.batch.raw import UnreadableFileError, given_files
from pipelines.forgetting.rows import USER_ID, is_about

LONGEST_CELL = 2**31 - 1
"""Characters of a cell of CSV; Python's own limit is 131,072, which a page of many candidates exceeds."""


def forget_in_given_files(workspace: Workspace, users: Collection[str]) -> dict[str, int]:
    """Remove these users' rows from every raw file that a user put into the workspace.

    Returns:
        Path -> rows removed, of those files that had any.

    Raises:
        UnreadableFileError: A file is truncated, corrupt or names no users.
    """
    removed = {}
    for name, schema in RAW_TABLES.items():
        for path in given_files(workspace, name) if USER_ID in schema.names else []:
            if rows := _forget(workspace.filesystem, path, users):
                removed[path] = rows
    return removed


def _forget(filesystem: pafs.FileSystem, path: str, users: Collection[str]) -> int:
    try:
        content, rows = _without(filesystem, path, users)
    except (pa.ArrowException, OSError, EOFError, LookupError, csv.Error) as error:
        raise UnreadableFileError(
            f"{path}: expected a complete file with a column {USER_ID}, but reading it failed: {error}; mend or move "
            "it, and run the same command again: rows of this and later files are not removed yet, all others are"
        ) from error
    if rows:
        write_atomically(filesystem, path, content)
    return rows


def _without(filesystem: pafs.FileSystem, path: str, users: Collection[str]) -> tuple[bytes, int]:
    """Return a file's content without these users, and how many rows that removes."""
    if path.endswith(".parquet"):
        return _parquet(filesystem, path, users)
    packed = path.endswith(".gz")
    with filesystem.open_input_stream(path, compression="gzip" if packed else None) as stream:
        text = stream.read().decode("utf-8", errors="surrogateescape")
    kept, rows = [], 0
    for raw, doomed in _json_records(text, users) if ".jsonl" in path else _csv_records(text, users):
        rows += doomed
        if not doomed:
            kept.append(raw)
    content = "".join(kept).encode("utf-8", errors="surrogateescape")
    return gzip.compress(content) if packed else content, rows


def _parquet(filesystem: pafs.FileSystem, path: str, users: Collection[str]) -> tuple[bytes, int]:
    rows = pq.read_table(path, filesystem=filesystem, partitioning=None)
    ids = parse_values(rows.column(USER_ID).combine_chunks(), pa.string())
    doomed = pc.is_in(ids, value_set=pa.array(sorted(users), pa.string()))
    sink = io.BytesIO()
    pq.write_table(rows.filter(pc.invert(doomed)), sink, compression="zstd")
    return sink.getvalue(), pc.sum(doomed).as_py() or 0


def _json_records(text: str, users: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it is about one of these users."""
    for line in io.StringIO(text, newline=""):
        yield line, is_about(line.removeprefix("\ufeff"), users)


def _csv_records(text: str, users: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Yield the raw text of each record, which may span lines, and whether it is of one of these users."""
    read: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            read.append(line)
            yield line

    csv.field_size_limit(LONGEST_CELL)
    column: int | None = None
    for record in csv.reader(lines()):
        if column is None:
            names, doomed = [name.removeprefix("\ufeff") for name in record], False
            if USER_ID not in names:
                raise LookupError(f"its columns are {', '.join(names)}")
            column = names.index(USER_ID)
        else:
            doomed = column < len(record) and record[column] in users
        yield "".join(read), doomed
        read.clear()
