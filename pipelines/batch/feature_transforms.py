"""Pages -> statistics, transitions, sequences: the Beam side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

from features.schemas import AFTER_SPLIT
from pipelines.batch.config import BatchConfig, TransitionsConfig
from pipelines.batch.entries import Entries, make_entries
from pipelines.batch.runner import Counted
from pipelines.batch.sequences import sequences_from_entries
from pipelines.batch.split import Splitter
from pipelines.batch.statistics import (
    merge_statistics,
    merge_transitions,
    pair_units,
    partial_statistics,
    training_entries,
)
from pipelines.batch.transforms import COUNTS, ROWS, ShardRows

ITEM_STATISTICS, TRANSITIONS = "item_statistics", "transitions"


class BuildStatistics(beam.PTransform):
    """Pages -> (shard of items, rows) of `item_statistics` and of `transitions`, and `counts`; training pages only."""

    def __init__(self, config: BatchConfig, splitter: Splitter) -> None:
        super().__init__()
        self.config, self.splitter = config, splitter

    def expand(self, pages: beam.PCollection) -> dict[str, beam.PCollection]:
        """Sum per shard of users, then per shard of items; popularity joins the transitions as a side input."""
        train = (
            pages
            | "users" >> ShardRows("user_id", self.config.shards)
            | "training entries" >> beam.FlatMap(_train, self.splitter).with_outputs(COUNTS, main=ROWS)
        )
        times = train[ROWS] | "last time of shard" >> beam.Map(_last_time) | "all shards" >> beam.GroupByKey()
        last_time = AsSingleton(times | "last time" >> beam.Map(_latest))
        half_life_days = self.config.pages.popularity_half_life_days
        statistics = (
            train[ROWS]
            | "partial statistics" >> beam.Map(partial_statistics, last_time, half_life_days)
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
        return {ITEM_STATISTICS: statistics, TRANSITIONS: transitions, COUNTS: train[COUNTS]}


class BuildSequences(beam.PTransform):
    """Pages -> (shard of users, rows of `sequences`): outputs `rows` and `counts`."""

    def __init__(self, config: BatchConfig, splitter: Splitter) -> None:
        super().__init__()
        self.config, self.splitter = config, splitter

    def expand(self, pages: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        """Bring users together, then split and nest their pages."""
        built = beam.FlatMap(_sequences, self.splitter).with_outputs(COUNTS, main=ROWS)
        return pages | "users" >> ShardRows("user_id", self.config.shards) | "sequences" >> built


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


def _last_time(train: pa.Table) -> tuple[int, int]:
    return 0, int(np.asarray(train.column("time")).max(initial=0))


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
