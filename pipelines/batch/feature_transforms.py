"""Pages -> statistics, transitions, sequences: the Beam side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

from features.schemas import AFTER_SPLIT
from features.schemas import TRAINING_PAGES as TRAINING_PAGE_ROWS
from pipelines.batch.arrow import split_by
from pipelines.batch.condensed import as_partial, condense, merged_counts
from pipelines.batch.config import BatchConfig, TransitionsConfig
from pipelines.batch.entries import Entries, make_entries
from pipelines.batch.runner import Counted
from pipelines.batch.sequences import sequences_from_entries
from pipelines.batch.split import Splitter
from pipelines.batch.statistics import (
    COUNT_COLUMNS,
    merge_statistics,
    merge_transitions,
    pair_units,
    partial_statistics,
    training_entries,
)
from pipelines.batch.transforms import COUNTS, ROWS, GroupRows, ShardRows, days_of, split_by_day

ITEM_STATISTICS, TRANSITIONS = "item_statistics", "transitions"
TRAINING_PAGES, TRAINING_COUNTS = "training_pages", "training_counts"
OPEN = "open"
"""Counts, per day, entries of pages that do not train, or not yet."""


class Condense(beam.PTransform):
    """Pages -> rows of `training_pages` and of `training_counts`, and `counts`; for splits by time."""

    def __init__(self, shards: int, splitter: Splitter) -> None:
        super().__init__()
        self.shards, self.splitter = shards, splitter

    def expand(self, pages: beam.PCollection) -> dict[str, beam.PCollection]:
        """Condense batches of pages, then add up the counts of a day."""
        outputs = (TRAINING_PAGES, TRAINING_COUNTS, COUNTS)
        found = pages | "condense" >> beam.FlatMap(_condense, self.splitter).with_outputs(*outputs)
        counts = (
            found[TRAINING_COUNTS]
            | "counts by day" >> beam.FlatMap(split_by_day, TRAINING_COUNTS, self.shards)
            | "days" >> GroupRows()
            | "add up" >> beam.MapTuple(_merged_counts)
        )
        return {TRAINING_PAGES: found[TRAINING_PAGES], TRAINING_COUNTS: counts, COUNTS: found[COUNTS]}


class BuildStatistics(beam.PTransform):
    """Pages -> (shard of items, rows) of `item_statistics` and of `transitions`, and `counts`; training pages only.

    Pages may be whole, or condensed ones beside the counts of what they lack.
    """

    def __init__(self, config: BatchConfig, splitter: Splitter) -> None:
        super().__init__()
        self.config, self.splitter = config, splitter

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection]) -> dict[str, beam.PCollection]:
        """Sum per shard of users, then per shard of items; popularity joins the transitions as a side input."""
        pages, others = inputs
        train = (
            pages
            | "users" >> ShardRows("user_id", self.config.shards)
            | "training entries" >> beam.FlatMap(_train, self.splitter).with_outputs(COUNTS, main=ROWS)
        )
        partial = others | "partial counts" >> beam.Map(as_partial)
        moments = train[ROWS] | "last time of shard" >> beam.Map(_last_time, "time")
        of_others = partial | "last time of others" >> beam.Map(_last_time, "last")
        times = (moments, of_others) | "times" >> beam.Flatten() | "all shards" >> beam.GroupByKey()
        last_time = AsSingleton(times | "last time" >> beam.Map(_latest))
        half_life_days = self.config.pages.popularity_half_life_days
        sums = train[ROWS] | "partial statistics" >> beam.Map(partial_statistics, last_time, half_life_days)
        statistics = (
            (sums, partial)
            | "all sums" >> beam.Flatten()
            | "statistics by item" >> ShardRows("item_id", self.config.shards)
            | "merge statistics" >> beam.Map(_merge_statistics)
        )
        popularity = AsList(statistics | "popularity" >> beam.Map(_popularity))
        transitions = (
            train[ROWS]
            | "pairs" >> beam.Map(pair_units, self.config.transitions.max_distance)
            | "pairs by item" >> ShardRows("item_id", self.config.shards)
            | "merge transitions" >> beam.Map(_merge_transitions, popularity, self.config.transitions)
        )
        counts = (train[COUNTS], others | "count others" >> beam.Map(_count_others)) | "counts" >> beam.Flatten()
        return {ITEM_STATISTICS: statistics, TRANSITIONS: transitions, COUNTS: counts}


class BuildSequences(beam.PTransform):
    """Pages -> (shard of users, rows of `sequences`): outputs `rows` and `counts`."""

    def __init__(self, config: BatchConfig, splitter: Splitter) -> None:
        super().__init__()
        self.config, self.splitter = config, splitter

    def expand(self, pages: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        """Bring users together, then split and nest their pages."""
        built = beam.FlatMap(_sequences, self.splitter).with_outputs(COUNTS, main=ROWS)
        return pages | "users" >> ShardRows("user_id", self.config.shards) | "sequences" >> built


def _condense(pages: pa.Table, splitter: Splitter) -> Iterator[TaggedOutput]:
    for day, rows in split_by(pages, days_of(pages, "pages")):
        found = condense(rows, splitter)
        held_out = len(found.entries.page_E) - found.train
        shown = found.train + held_out + found.entries.hidden
        for name, number in (
            ("pages.read", rows.num_rows),
            ("entries.read", shown),
            ("entries.condensed", _entries_of(found.pages, found.counts)),
            ("entries.held_out", held_out),
            (f"entries.dropped.{AFTER_SPLIT}", found.entries.hidden),
            (f"{OPEN}.{np.datetime64(day, 'D')}", held_out + found.entries.hidden),
        ):
            yield TaggedOutput(COUNTS, Counted(name, number))
        yield TaggedOutput(TRAINING_PAGES, found.pages)
        yield TaggedOutput(TRAINING_COUNTS, found.counts)


def _entries_of(pages: pa.Table, counts: pa.Table) -> int:
    """Return how many entries condensed pages stand for."""
    others = sum(pc.sum(counts.column(name)).as_py() or 0 for name in COUNT_COLUMNS)
    return others + (pc.sum(pc.list_value_length(pages.column("items"))).as_py() or 0)


def _count_others(counts: pa.Table) -> Counted:
    return Counted("entries.train", _entries_of(TRAINING_PAGE_ROWS.empty_table(), counts))


def _merged_counts(shard: int, counts: pa.Table) -> pa.Table:
    return merged_counts(counts)


def _train(shard: tuple[int, pa.Table], splitter: Splitter) -> Iterator[pa.Table | TaggedOutput]:
    entries = make_entries(shard[1], splitter)
    train = training_entries(entries)
    yield from _counts(shard[1], entries)
    yield TaggedOutput(COUNTS, Counted("entries.train", train.num_rows))
    yield TaggedOutput(COUNTS, Counted("entries.held_out", len(entries.page_E) - train.num_rows))
    yield train


def _sequences(shard: tuple[int, pa.Table], splitter: Splitter) -> Iterator[tuple[int, pa.Table] | TaggedOutput]:
    entries = make_entries(shard[1], splitter)
    sequences = sequences_from_entries(entries)
    yield from _counts(shard[1], entries)
    yield TaggedOutput(
        COUNTS, Counted("pages.out", pc.sum(pc.list_value_length(sequences.column("page_ids"))).as_py() or 0)
    )
    yield TaggedOutput(
        COUNTS, Counted("entries.out", pc.sum(pc.list_value_length(sequences.column("items"))).as_py() or 0)
    )
    yield shard[0], sequences


def _counts(pages: pa.Table, entries: Entries) -> Iterator[TaggedOutput]:
    empty = pages.num_rows - len(entries.user_P)
    shown = pc.sum(pc.list_value_length(pages.column("items"))).as_py()
    for name, rows in (
        ("pages.in", pages.num_rows),
        (f"pages.dropped.{AFTER_SPLIT}", empty),
        ("entries.in", shown),
        (f"entries.dropped.{AFTER_SPLIT}", entries.hidden),
    ):
        yield TaggedOutput(COUNTS, Counted(name, rows))


def _last_time(rows: pa.Table, column: str) -> tuple[int, int]:
    return 0, int(np.asarray(rows.column(column)).max(initial=0))


def _latest(times: tuple[int, Iterable[int]]) -> int:
    return max(times[1])


def _merge_statistics(shard: tuple[int, pa.Table]) -> tuple[int, pa.Table]:
    return shard[0], merge_statistics(shard[1])


def _popularity(shard: tuple[int, pa.Table]) -> pa.Table:
    return shard[1].select(["item_id", "popularity"])


def _merge_transitions(
    shard: tuple[int, pa.Table], popularity: list[pa.Table], config: TransitionsConfig
) -> tuple[int, pa.Table]:
    return shard[0], merge_transitions(shard[1], pa.concat_tables(popularity), config)
