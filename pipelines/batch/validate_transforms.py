"""Raw files -> clean tables and dead letters: the Beam side."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from features.schemas import CLEAN_TABLES
from pipelines.batch.checks import KEYS, Checked, check_rows, keep_first
from pipelines.batch.raw import read_batches
from pipelines.batch.runner import Counted
from pipelines.batch.transforms import (
    COUNTS,
    DEAD,
    ROWS,
    ShardRows,
    WriteByDay,
    WriteShards,
    open_workspace,
    sorted_rows,
)


class CheckFiles(beam.PTransform):
    """Read raw files and apply the table's contract to every row: outputs `rows`, `dead`, `counts`."""

    def __init__(self, uri: str, table: str, files: list[str]) -> None:
        super().__init__()
        self.uri, self.table, self.files = uri, table, files

    def expand(self, start: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        """Create paths, read and check each."""
        checked = beam.FlatMap(_check_file, self.uri, self.table).with_outputs(DEAD, COUNTS, main=ROWS)
        return start | "files" >> beam.Create(self.files) | "read and check" >> checked


class KeepFirst(beam.PTransform):
    """Keep one row of each id of a raw table: outputs `rows`, keyed by shard, and `dead`, `counts`."""

    def __init__(self, table: str, shards: int) -> None:
        super().__init__()
        self.table, self.shards = table, shards

    def expand(self, rows: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        """Shard by id, sort each shard, keep the first of each id."""
        kept = beam.FlatMap(_keep_first, self.table).with_outputs(DEAD, COUNTS, main=ROWS)
        return rows | "by id" >> ShardRows(KEYS[self.table], self.shards) | "keep first" >> kept


class WriteDeadLetters(beam.PTransform):
    """Dead letters -> sorted Parquet files; emits `Written`."""

    def __init__(self, uri: str, shards: int) -> None:
        super().__init__()
        self.uri, self.shards = uri, shards

    def expand(self, dead: beam.PCollection) -> beam.PCollection:
        """Shard by the rejected row, sort, write."""
        return (
            dead
            | "by row" >> ShardRows("row", self.shards)
            | "sort" >> beam.Map(_sort_shard, "dead_letters")
            | "parts" >> WriteShards(self.uri, "dead_letters")
        )


class ValidateTable(beam.PTransform):
    """Raw files of one table -> its clean table; outputs `rows` as `Written` elements, `dead` and `counts`."""

    def __init__(self, uri: str, table: str, files: list[str], shards: int) -> None:
        super().__init__()
        self.uri, self.table, self.files, self.shards = uri, table, files, shards

    def expand(self, start: beam.Pipeline) -> dict[str, beam.PCollection]:
        """Check rows, drop repeated ids, write."""
        checked = start | "check" >> CheckFiles(self.uri, self.table, self.files)
        unique = checked[ROWS] | "unique" >> KeepFirst(self.table, self.shards)
        clean = CLEAN_TABLES[self.table]
        if self.table == "events":
            tables = unique[ROWS] | "drop shard" >> beam.Values()
            written = tables | "write days" >> WriteByDay(self.uri, clean, self.shards)
        else:
            written = unique[ROWS] | "write parts" >> WriteShards(self.uri, clean)
        return {
            ROWS: written,
            DEAD: (checked[DEAD], unique[DEAD]) | "dead letters" >> beam.Flatten(),
            COUNTS: (checked[COUNTS], unique[COUNTS]) | "counts" >> beam.Flatten(),
        }


def _check_file(path: str, uri: str, table: str) -> Iterator[pa.Table | TaggedOutput]:
    for batch in read_batches(open_workspace(uri).filesystem, path):
        size = batch.rows.num_rows + len(batch.broken_lines)
        yield TaggedOutput(COUNTS, Counted(f"{table}.in", size))
        yield from _outputs(check_rows(table, batch), table)


def _keep_first(shard: tuple[int, pa.Table], table: str) -> Iterator[tuple[int, pa.Table] | TaggedOutput]:
    key, rows = shard
    kept = keep_first(table, rows)
    for output in _outputs(kept, table):
        yield output if isinstance(output, TaggedOutput) else (key, output)


def _outputs(checked: Checked, table: str) -> Iterator[pa.Table | TaggedOutput]:
    if checked.rows.num_rows:
        yield checked.rows
    if checked.dead.num_rows:
        yield TaggedOutput(DEAD, checked.dead)
        for reason in checked.dead.column("reason").value_counts().to_pylist():
            yield TaggedOutput(COUNTS, Counted(f"{table}.dropped.{reason['values']}", reason["counts"]))


def _sort_shard(shard: tuple[int, pa.Table], name: str) -> tuple[int, pa.Table]:
    return shard[0], sorted_rows(shard[1], name)
