"""Clean events, items, pages -> tables of features: the Beam side of `folding`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsList, TaggedOutput

from features.definitions import ITEM_FEATURES, ITEM_STATES, PAGE_FEATURES, USER_STATES, Feature
from features.events import CO_VISIT_ROWS, ItemKeys
from pipelines.batch.arrow import decode, encode
from pipelines.batch.fold_new import item_states
from pipelines.batch.folding import (
    catalogue_rows,
    co_visit_rows,
    item_features,
    item_keys,
    page_features,
    user_events,
    user_states,
)
from pipelines.batch.runner import Counted
from pipelines.batch.transforms import COUNTS, split_by_shard

EVENTS, PAGES, PAIRS = "events", "pages", "pairs"
_Pieces = tuple[int, Mapping[str, Iterable[bytes]]]


class FoldUsers(beam.PTransform):
    """Clean events and pages -> rows of `page_features`, (shard of users, rows) of `user_states`, `pairs`, `counts`.

    Args:
        shards: Number of shards of users.
        features: Default `FEATURES`.
    """

    def __init__(self, shards: int, features: Sequence[Feature] | None) -> None:
        super().__init__()
        self.shards, self.features = shards, features

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Bring users together; inputs are `events`, `pages` and `keys_of_items` (`CatalogueKeys`)."""
        pieces = {
            name: inputs[name] | f"{name} by user" >> beam.FlatMap(split_by_shard, "user_id", self.shards)
            for name in (EVENTS, PAGES)
        }
        outputs = (PAGE_FEATURES, USER_STATES, PAIRS, COUNTS)
        return (
            pieces
            | "users" >> beam.CoGroupByKey()
            | "fold" >> beam.FlatMap(_fold_users, AsList(inputs["keys_of_items"]), self.features).with_outputs(*outputs)
        )


class FoldItems(beam.PTransform):
    """Clean events and pairs -> rows of `item_features`, (shard of items, rows) of `item_states`, and `counts`.

    Args:
        shards: Number of shards of items.
        end_ms: The midnight behind the last event.
        features: Default `FEATURES`.
    """

    def __init__(self, shards: int, end_ms: int, features: Sequence[Feature] | None) -> None:
        super().__init__()
        self.shards, self.end_ms, self.features = shards, end_ms, features

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Bring items together; inputs are `events`, `pairs`, `keys_of_items` and the rows of the `catalogue`."""
        pieces = {
            name: inputs[name] | f"{name} by item" >> beam.FlatMap(split_by_shard, "item_id", self.shards)
            for name in (EVENTS, PAIRS)
        }
        sides = AsList(inputs["keys_of_items"]), AsList(inputs["catalogue"])
        fold = beam.FlatMap(_fold_items, *sides, self.end_ms, self.features)
        return pieces | "items" >> beam.CoGroupByKey() | "fold" >> fold.with_outputs(ITEM_FEATURES, ITEM_STATES, COUNTS)


class CatalogueKeys(beam.PTransform):
    """Clean items -> one `ItemKeys`, or none where there are no items."""

    def expand(self, items: beam.PCollection) -> beam.PCollection:
        """Bring the parts together."""
        return (
            items
            | "one key" >> beam.Map(_under_one_key)
            | "whole catalogue" >> beam.GroupByKey()
            | "keys" >> beam.Map(_keys)
        )


def _fold_users(shard: _Pieces, keys: list[ItemKeys], features: Sequence[Feature] | None) -> Iterator[TaggedOutput]:
    number, pieces = shard
    rows, pages = decode(pieces[EVENTS]), decode(pieces[PAGES])
    users, events = user_events(rows, only(keys))
    yield TaggedOutput(COUNTS, Counted("clean_events.in", rows.num_rows))
    yield TaggedOutput(COUNTS, Counted("pages.in", pages.num_rows))
    yield TaggedOutput(PAIRS, co_visit_rows(rows, events))
    yield TaggedOutput(USER_STATES, (number, user_states(users, events, features)))
    yield TaggedOutput(PAGE_FEATURES, page_features(pages, users, events, features))


def _fold_items(
    shard: _Pieces,
    keys: list[ItemKeys],
    catalogue: list[pa.Table],
    end_ms: int,
    features: Sequence[Feature] | None,
) -> Iterator[TaggedOutput]:
    number, pieces = shard
    rows, pair_pieces = decode(pieces[EVENTS]), list(pieces[PAIRS])
    pairs = decode(pair_pieces) if pair_pieces else CO_VISIT_ROWS.empty_table()
    yield TaggedOutput(COUNTS, Counted("item_events.in", rows.num_rows))
    yield TaggedOutput(ITEM_FEATURES, item_features(rows, pairs, only(keys), end_ms, features))
    yield TaggedOutput(ITEM_STATES, (number, item_states(rows, pairs, catalogue_rows(catalogue), only(keys), features)))


def only(keys: list[ItemKeys]) -> ItemKeys:
    """Return the keys of the catalogue, which are none where it has no items."""
    return keys[0] if keys else item_keys([])


def _under_one_key(items: pa.Table) -> tuple[int, bytes]:
    return 0, encode(items)


def _keys(keyed: tuple[int, Iterable[bytes]]) -> ItemKeys:
    return item_keys([decode(keyed[1])])
