"""A user's own raw files without some persons; everything else in them stays as it is, byte for byte.

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
from pipelines.batch.raw import given_files, json_object
from pipelines.forgetting.rows import USER_ID


def forget_in_given_files(workspace: Workspace, users: Collection[str]) -> dict[str, int]:
    """Remove these users' rows from every raw file that a user put into the workspace.

    Returns:
        Path -> rows removed, of those files that had any.
    """
    removed = {}
    for name, schema in RAW_TABLES.items():
        for path in given_files(workspace, name) if USER_ID in schema.names else []:
            if rows := _forget(workspace.filesystem, path, users):
                removed[path] = rows
    return removed


def _forget(filesystem: pafs.FileSystem, path: str, users: Collection[str]) -> int:
    if path.endswith(".parquet"):
        content, rows = _parquet(filesystem, path, users)
    else:
        packed = path.endswith(".gz")
        with filesystem.open_input_stream(path, compression="gzip" if packed else None) as stream:
            text = stream.read().decode("utf-8", errors="surrogateescape")
        records = _json_records(text) if ".jsonl" in path else _csv_records(text)
        kept, rows = [], 0
        for raw, user in records:
            if user in users:
                rows += 1
            else:
                kept.append(raw)
        content = "".join(kept).encode("utf-8", errors="surrogateescape")
        content = gzip.compress(content) if packed else content
    if rows:
        write_atomically(filesystem, path, content)
    return rows


def _parquet(filesystem: pafs.FileSystem, path: str, users: Collection[str]) -> tuple[bytes, int]:
    rows = pq.read_table(path, filesystem=filesystem, partitioning=None)
    ids = parse_values(rows.column(USER_ID).combine_chunks(), pa.string())
    doomed = pc.is_in(ids, value_set=pa.array(sorted(users), pa.string()))
    sink = io.BytesIO()
    pq.write_table(rows.filter(pc.invert(doomed)), sink, compression="zstd")
    return sink.getvalue(), pc.sum(doomed).as_py() or 0


def _json_records(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield each line and whose it is."""
    for line in io.StringIO(text, newline=""):
        record = json_object(line.removeprefix("\ufeff"))
        yield line, None if record is None else str(record.get(USER_ID))


def _csv_records(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the raw text of each record, which may span lines, and whose it is; the header is nobody's."""
    read: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            read.append(line)
            yield line

    column: int | None = None
    for record in csv.reader(lines()):
        if column is None:
            column = [name.removeprefix("\ufeff") for name in record].index(USER_ID)
            user = None
        else:
            user = record[column] if column < len(record) else None
        yield "".join(read), user
        read.clear()
