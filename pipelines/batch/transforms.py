"""The Beam side of the batch pipelines: composite transforms whose elements are Arrow tables.

Elements are tables of some ten thousand rows (`pyarrow.Table` inside a bundle, IPC bytes through a shuffle), never
single events. Rows that belong together meet by `ShardRows`: the hash of an id chooses one of `shards` keys, and one
`GroupByKey` brings a shard to one worker. Beam windows and `Reshuffle` of rows are not used: both cost more than all
else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.definitions import ITEM_FEATURES, PAGE_FEATURES, Feature
from features.workspace import FileEntry, Table, Workspace
from pipelines.batch.arrow import DAY_MS, decode, encode, milliseconds, shard_of, split_by
from pipelines.batch.raw import BATCH_ROWS
from pipelines.batch.runner import Counted, Written
from pipelines.batch.spilling import put_aside

ROWS, DEAD, COUNTS = "rows", "dead", "counts"
"""Names of outputs: rows that pass, dead letters, `Counted` elements."""
SORT_KEYS: dict[str, list[str]] = {
    "clean_events": ["timestamp", "event_id"],
    "fresh_events": ["timestamp", "event_id"],
    "clean_served_pages": ["timestamp", "user_id", "request_id"],
    "fresh_served_pages": ["timestamp", "user_id", "request_id"],
    "pages": ["timestamp", "user_id", "request_id"],
    "training_pages": ["timestamp", "user_id", "request_id"],
    "training_counts": ["timestamp", "item_id"],
    PAGE_FEATURES: ["timestamp", "user_id", "request_id"],
    ITEM_FEATURES: ["as_of", "item_id"],
    "dead_letters": ["table", "reason", "row", "detail", "source"],
}
"""Of tables whose files are sorted; of those by days they tell every row apart."""
DAY_COLUMN = {ITEM_FEATURES: "as_of"}
"""What the days of a table are days of, where it is not `timestamp`."""


class CountRows(beam.PTransform):
    """Tables -> one `Counted` element each."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Count."""
        return rows | "count" >> beam.Map(_count_rows, self.name)


class ReadTable(beam.PTransform):
    """Read a committed table as Arrow tables of about `BATCH_ROWS` rows.

    Args:
        uri: The workspace.
        table: Handle of the table; the driver reads its manifest, workers its files.
        columns: What to read, default everything.
        since: Of a table by days, the first day to read, `YYYY-MM-DD`; default all.
        before: The day to end before; default none.
        without: Days to leave out.
        only: Days to read; default all.
    """

    def __init__(
        self,
        uri: str,
        table: Table,
        columns: list[str] | None = None,
        *,
        since: str | None = None,
        before: str | None = None,
        without: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.uri, self.columns = uri, columns

        def wanted(entry: FileEntry) -> bool:
            day = entry.path.split("/")[0].removeprefix("date=")
            apart = (since and day < since) or (before and day >= before) or day in without
            return not apart and (only is None or day in only)

        self.groups = _file_groups([entry for entry in table.manifest().files if wanted(entry)], table.root)

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Create file groups, read each."""
        return (
            start
            | "file groups" >> beam.Create(self.groups)
            | "read" >> beam.FlatMap(read_files, self.uri, self.columns)
        )


class ShardRows(beam.PTransform):
    """Tables -> (shard, one table with all rows whose id in `column` hashes to the shard)."""

    def __init__(self, column: str, shards: int) -> None:
        super().__init__()
        self.column, self.shards = column, shards

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Split every table, then group the pieces."""
        return rows | "split" >> beam.FlatMap(split_by_shard, self.column, self.shards) | "group" >> GroupRows()


class GroupRows(beam.PTransform):
    """(key, IPC bytes) -> (key, one table); the order of the rows within it is arbitrary."""

    def expand(self, pieces: beam.PCollection) -> beam.PCollection:
        """Group and concatenate."""
        return pieces | "group by key" >> beam.GroupByKey() | "concatenate" >> beam.MapTuple(_concatenate)


class WriteByDay(beam.PTransform):
    """Tables -> one Parquet file per UTC day, sorted; emits `Written`.

    Args:
        uri: The workspace.
        name: The table.
        shards: Parts into which days are put.
        features: See `Workspace.table`.
    """

    def __init__(self, uri: str, name: str, shards: int, features: Sequence[Feature] | None = None) -> None:
        super().__init__()
        self.uri, self.name, self.shards, self.features = uri, name, shards, features

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Bring the rows of a day together, whichever worker they were made by."""
        return (
            rows
            | "split by day" >> beam.FlatMap(split_by_day, self.name, self.shards)
            | "days" >> GroupRows()
            | "write" >> beam.FlatMap(_write_days, self.uri, self.name, self.features)
        )


class WriteShards(beam.PTransform):
    """(shard, table) -> one Parquet file per shard; emits `Written`.

    Args:
        uri: The workspace.
        name: The table.
        features: See `Workspace.table`.
    """

    def __init__(self, uri: str, name: str, features: Sequence[Feature] | None = None) -> None:
        super().__init__()
        self.uri, self.name, self.features = uri, name, features

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Write each shard as it is."""
        return rows | "write" >> beam.FlatMap(_write_shard, self.uri, self.name, self.features)


@lru_cache(maxsize=8)
def open_workspace(uri: str) -> Workspace:
    """Return the workspace, opened once per process."""
    return Workspace(uri)


def split_by_shard(rows: pa.Table, column: str, shards: int) -> Iterator[tuple[int, bytes]]:
    """Yield (shard, IPC bytes of the rows whose id in `column` hashes to it, or where they wait)."""
    for shard, piece in split_by(rows, shard_of(rows.column(column), shards)):
        yield shard, put_aside(encode(piece))


def _file_groups(entries: Sequence[FileEntry], root: str) -> list[list[str]]:
    groups: list[list[str]] = []
    rows = BATCH_ROWS
    for entry in entries:
        if rows >= BATCH_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(f"{root}/{entry.path}")
        rows += entry.rows
    return groups


def read_files(paths: Sequence[str], uri: str, columns: list[str] | None) -> Iterator[pa.Table]:
    """Yield the rows of Parquet files in tables of about `BATCH_ROWS` rows."""
    pending: list[pa.RecordBatch] = []
    for path in paths:
        with open_workspace(uri).filesystem.open_input_file(path) as handle:
            for batch in pq.ParquetFile(handle).iter_batches(BATCH_ROWS, columns=columns):
                pending.append(batch)
                if sum(part.num_rows for part in pending) >= BATCH_ROWS:
                    yield pa.Table.from_batches(pending)
                    pending = []
    if pending:
        yield pa.Table.from_batches(pending)


def _count_rows(rows: pa.Table, name: str) -> Counted:
    return Counted(name, rows.num_rows)


def _concatenate(key: int, pieces: Iterable[bytes]) -> tuple[int, pa.Table]:
    return key, decode(pieces)


def days_of(rows: pa.Table, name: str) -> np.ndarray:
    """Return the UTC day of each row of a table by days, counted from 1970."""
    return milliseconds(rows.column(DAY_COLUMN.get(name, "timestamp"))) // DAY_MS


def split_by_day(rows: pa.Table, name: str, shards: int) -> Iterator[tuple[int, bytes]]:
    """Yield (shard, IPC bytes of the rows whose day it holds, or where they wait)."""
    for shard, piece in split_by(rows, days_of(rows, name) % shards):
        yield shard, put_aside(encode(piece))


def _write_days(
    shard: tuple[int, pa.Table], uri: str, name: str, features: Sequence[Feature] | None
) -> Iterator[Written]:
    rows = sorted_rows(shard[1], name)
    for day, part in split_by(rows, days_of(rows, name)):
        date = str(np.datetime64(day, "D"))
        yield Written(name, open_workspace(uri).table(name, features).write_part(part, shard=0, date=date))


def _write_shard(
    shard: tuple[int, pa.Table], uri: str, name: str, features: Sequence[Feature] | None
) -> Sequence[Written]:
    number, rows = shard
    if not rows.num_rows:
        return []
    entry: FileEntry = open_workspace(uri).table(name, features).write_part(rows, shard=number)
    return [Written(name, entry)]


def sorted_rows(rows: pa.Table, name: str) -> pa.Table:
    """Sort rows by the table's keys."""
    return rows.sort_by([(column, "ascending") for column in SORT_KEYS[name]])
