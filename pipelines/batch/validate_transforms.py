"""Raw files -> clean tables and dead letters: the Beam side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.pvalue import AsList, TaggedOutput

from features.schemas import CLEAN_TABLES, DEAD_LETTERS, RAW_TABLES
from features.workspace import Table
from kernels.hashing import HashArray, hash_strings
from pipelines.batch.arrow import decode
from pipelines.batch.checks import KEYS, PLACE, Checked, check_rows, duplicates, keep_first, without_places
from pipelines.batch.increment import FRESH_TABLES
from pipelines.batch.raw import read_batches
from pipelines.batch.raw_inputs import Source, between_positions
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
    split_by_shard,
)
from pipelines.streaming.page_checks import SOURCE

REPLACED = "replaced"
_NEW, _OLD = "new", "old"


class CheckFiles(beam.PTransform):
    """Read raw files and apply the table's contract to every row: outputs `rows`, `dead`, `counts`."""

    def __init__(self, uri: str, table: str, sources: Sequence[Source]) -> None:
        super().__init__()
        self.uri, self.table, self.sources = uri, table, sources

    def expand(self, start: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        """Create sources, read and check each."""
        checked = beam.FlatMap(_check_file, self.uri, self.table).with_outputs(DEAD, COUNTS, main=ROWS)
        return start | "files" >> beam.Create(list(enumerate(self.sources))) | "read and check" >> checked


class KeepFirst(beam.PTransform):
    """Keep one row of each id of a raw table: outputs `rows`, keyed by shard, and `dead`, `counts`.

    Args:
        table: Its name.
        shards: Parts into which ids are hashed.
        files: Where rows came from, by the number that their places tell.
        newer: Rows, one per id, that take the place of others.
    """

    def __init__(self, table: str, shards: int, files: Sequence[str], newer: pa.Table | None = None) -> None:
        super().__init__()
        self.table, self.shards, self.files, self.newer = table, shards, files, newer

    def expand(self, rows: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        """Shard by id, sort each shard, keep the first of each id."""
        newer = rows.pipeline | "newer" >> beam.Create([] if self.newer is None else [self.newer])
        pieces = {
            kind: part | f"{kind} by id" >> beam.FlatMap(split_by_shard, KEYS[self.table], self.shards)
            for kind, part in ((_NEW, newer), (_OLD, rows))
        }
        kept = beam.FlatMap(_keep_first, self.table, self.files).with_outputs(DEAD, COUNTS, main=ROWS)
        return pieces | "ids" >> beam.CoGroupByKey() | "keep first" >> kept


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
    """Raw files of one table -> its clean table; outputs `rows` as `Written` elements, `dead` and `counts`.

    Args:
        uri: The workspace.
        table: The raw table.
        sources: Its files.
        shards: Parts into which ids are hashed.
        newer: Rows, one per id, that take the place of others.
    """

    def __init__(
        self, uri: str, table: str, sources: Sequence[Source], shards: int, newer: pa.Table | None = None
    ) -> None:
        super().__init__()
        self.uri, self.table, self.sources, self.shards, self.newer = uri, table, sources, shards, newer

    def expand(self, start: beam.Pipeline) -> dict[str, beam.PCollection]:
        """Check rows, drop repeated ids, write."""
        checked = start | "check" >> CheckFiles(self.uri, self.table, self.sources)
        unique = checked[ROWS] | "unique" >> KeepFirst(self.table, self.shards, _names(self.sources), self.newer)
        clean = CLEAN_TABLES[self.table]
        if self.table in FRESH_TABLES:
            tables = unique[ROWS] | "drop shard" >> beam.Values()
            written = tables | "write days" >> WriteByDay(self.uri, clean, self.shards)
        else:
            written = unique[ROWS] | "write parts" >> WriteShards(self.uri, clean)
        return {
            ROWS: written,
            DEAD: (checked[DEAD], unique[DEAD]) | "dead letters" >> beam.Flatten(),
            COUNTS: (checked[COUNTS], unique[COUNTS]) | "counts" >> beam.Flatten(),
        }


class FreshRows(beam.PTransform):
    """New raw rows of a table by days beside the clean ones that stand -> outputs `rows`, to add, `dead` and `counts`.

    Where a new row has the id of a standing one and comes before it (`keep_first`), that one would have to go: such
    ids are counted as `REPLACED`.

    Args:
        uri: The workspace.
        table: The raw table.
        sources: Of new raw rows.
        clean: Handle of the clean table.
        shards: Parts into which ids are hashed.
    """

    def __init__(self, uri: str, table: str, sources: Sequence[Source], clean: Table, shards: int) -> None:
        super().__init__()
        self.uri, self.table, self.sources, self.clean, self.shards = uri, table, sources, clean.files(), shards

    def expand(self, start: beam.Pipeline) -> dict[str, beam.PCollection]:
        """Check new rows, find the standing ones of their ids, keep the first of each id."""
        key = KEYS[self.table]
        checked = start | "check" >> CheckFiles(self.uri, self.table, self.sources)
        ids = AsList(checked[ROWS] | "new ids" >> beam.Map(_id_hashes, key))
        same = beam.FlatMap(_rows_of_ids, self.uri, key, ids)
        pieces = {
            kind: rows | f"{kind} by id" >> beam.FlatMap(split_by_shard, key, self.shards)
            for kind, rows in (
                (_NEW, checked[ROWS]),
                (_OLD, start | "clean files" >> beam.Create(self.clean) | "same ids" >> same),
            )
        }
        kept = beam.FlatMap(_keep_fresh, self.table, _names(self.sources)).with_outputs(DEAD, COUNTS, main=ROWS)
        fresh = pieces | "ids" >> beam.CoGroupByKey() | "keep fresh" >> kept
        return {
            ROWS: fresh[ROWS],
            DEAD: (checked[DEAD], fresh[DEAD]) | "dead letters" >> beam.Flatten(),
            COUNTS: (checked[COUNTS], fresh[COUNTS]) | "counts" >> beam.Flatten(),
        }


class RowsOf(beam.PTransform):
    """Dead letters -> those that were meant for one of some tables, or for none of them."""

    def __init__(self, tables: Sequence[str], *, among: bool) -> None:
        super().__init__()
        self.tables, self.among = list(tables), among

    def expand(self, dead: beam.PCollection) -> beam.PCollection:
        """Filter."""
        return dead | "choose" >> beam.Map(_rows_of_tables, self.tables, self.among)


def _names(sources: Sequence[Source]) -> list[str]:
    """Name each source for dead letters; what files the stream's log has today says nothing."""
    return [source.path if source.upto is None else SOURCE for source in sources]


def _check_file(numbered: tuple[int, Source], uri: str, table: str) -> Iterator[pa.Table | TaggedOutput]:
    file, source = numbered
    for batch in read_batches(open_workspace(uri).filesystem, source.path):
        batch = between_positions(batch, source)
        size = batch.rows.num_rows + len(batch.broken_lines)
        yield TaggedOutput(COUNTS, Counted(f"{table}.in", size))
        checked = check_rows(table, batch, file)
        yield from _dead_outputs(checked, table)
        if checked.rows.num_rows:
            yield checked.rows


def _keep_first(
    shard: tuple[int, Mapping[str, Iterable[bytes]]], table: str, files: Sequence[str]
) -> Iterator[tuple[int, pa.Table] | TaggedOutput]:
    key, (newer, old) = shard[0], (list(shard[1][kind]) for kind in (_NEW, _OLD))
    nothing = Checked(RAW_TABLES[table].empty_table(), DEAD_LETTERS.empty_table())
    kept = keep_first(table, decode(old), files) if old else nothing
    if newer:
        kept = _replaced(kept, decode(newer), table, files)
    for output in _outputs(kept, table):
        yield output if isinstance(output, TaggedOutput) else (key, output)


def _replaced(kept: Checked, newer: pa.Table, table: str, files: Sequence[str]) -> Checked:
    """Let rows take the place of those of their ids."""
    again = pc.is_in(kept.rows.column(KEYS[table]), value_set=newer.column(KEYS[table]).combine_chunks())
    others = without_places(kept.rows.filter(pc.invert(again)))
    rows = pa.concat_tables([others, newer.cast(others.schema)]).combine_chunks()
    rows = rows.take(pc.sort_indices(rows, [(KEYS[table], "ascending")]))
    dead = duplicates(table, kept.rows.filter(again), "the newest of the stream was kept", files)
    return Checked(rows, pa.concat_tables([kept.dead, dead]))


def _id_hashes(rows: pa.Table, key: str) -> HashArray:
    return hash_strings(rows.column(key))


def _rows_of_ids(path: str, uri: str, key: str, hashes: list[HashArray]) -> Iterator[pa.Table]:
    """Yield the rows of a file whose ids may be among those of the hashes."""
    if not hashes:
        return
    wanted = np.unique(np.concatenate(hashes))
    with open_workspace(uri).filesystem.open_input_file(path) as handle:
        file = pq.ParquetFile(handle)
        found = np.isin(hash_strings(file.read([key]).column(0)), wanted)
        if found.any():
            yield file.read().filter(pa.array(found))


def _keep_fresh(
    shard: tuple[int, Mapping[str, Iterable[bytes]]], table: str, files: Sequence[str]
) -> Iterator[pa.Table | TaggedOutput]:
    new, old = (list(shard[1][kind]) for kind in (_NEW, _OLD))
    if not new:
        return
    rows, key = decode(new), KEYS[table]
    if not old:
        yield from _outputs(keep_first(table, rows, files), table)
        return
    standing = decode(old)
    standing = standing.append_column(PLACE, pa.nulls(standing.num_rows, pa.int64())).cast(rows.schema)
    standing = standing.filter(pc.is_in(standing.column(key), value_set=rows.column(key).combine_chunks()))
    kept = keep_first(table, pa.concat_tables([standing, rows]).combine_chunks(), files)
    known = pc.is_in(kept.rows.column(key), value_set=standing.column(key).combine_chunks())
    again = kept.rows.filter(known)
    same = again.equals(standing.take(pc.sort_indices(standing, [(key, "ascending")])).cast(again.schema))
    yield TaggedOutput(COUNTS, Counted(f"{table}.{REPLACED}", 0 if same else again.num_rows))
    yield from _outputs(Checked(kept.rows.filter(pc.invert(known)), kept.dead), table)


def _rows_of_tables(dead: pa.Table, tables: list[str], among: bool) -> pa.Table:
    chosen = pc.is_in(dead.column("table"), value_set=pa.array(tables, pa.string()))
    return dead.filter(chosen if among else pc.invert(chosen))


def _outputs(checked: Checked, table: str) -> Iterator[pa.Table | TaggedOutput]:
    if checked.rows.num_rows:
        yield without_places(checked.rows)
    yield from _dead_outputs(checked, table)


def _dead_outputs(checked: Checked, table: str) -> Iterator[TaggedOutput]:
    if checked.dead.num_rows:
        yield TaggedOutput(DEAD, checked.dead)
        for reason in checked.dead.column("reason").value_counts().to_pylist():
            yield TaggedOutput(COUNTS, Counted(f"{table}.dropped.{reason['values']}", reason["counts"]))


def _sort_shard(shard: tuple[int, pa.Table], name: str) -> tuple[int, pa.Table]:
    return shard[0], sorted_rows(shard[1], name)
