"""Clean events, items, pages -> tables of features: the Beam side of `folding`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsList, TaggedOutput

from features.definitions import ITEM_FEATURES, PAGE_FEATURES, USER_STATES, Feature
from features.events import CO_VISIT_ROWS, ItemKeys
from pipelines.batch.arrow import decode, encode
from pipelines.batch.folding import (
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
    """Clean events and pages -> (shard of users, rows) of `page_features` and `user_states`, `pairs` and `counts`.

    Args:
        shards: Number of shards of users.
        features: Default `FEATURES`.
    """

    def __init__(self, shards: int, features: Sequence[Feature] | None) -> None:
        super().__init__()
        self.shards, self.features = shards, features

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Bring users together; inputs are `events`, `pages` and the catalogue's `items`."""
        pieces = {
            name: inputs[name] | f"{name} by user" >> beam.FlatMap(split_by_shard, "user_id", self.shards)
            for name in (EVENTS, PAGES)
        }
        outputs = (PAGE_FEATURES, USER_STATES, PAIRS, COUNTS)
        return (
            pieces
            | "users" >> beam.CoGroupByKey()
            | "fold" >> beam.FlatMap(_fold_users, AsList(inputs["items"]), self.features).with_outputs(*outputs)
        )


class FoldItems(beam.PTransform):
    """Clean events and pairs -> (shard of items, rows) of `item_features`, and `counts`.

    Args:
        shards: Number of shards of items.
        end_ms: The midnight behind the last event.
        features: Default `FEATURES`.
    """

    def __init__(self, shards: int, end_ms: int, features: Sequence[Feature] | None) -> None:
        super().__init__()
        self.shards, self.end_ms, self.features = shards, end_ms, features

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Bring items together; inputs are `events`, `pairs` and the catalogue's `items`."""
        pieces = {
            name: inputs[name] | f"{name} by item" >> beam.FlatMap(split_by_shard, "item_id", self.shards)
            for name in (EVENTS, PAIRS)
        }
        fold = beam.FlatMap(_fold_items, AsList(inputs["items"]), self.end_ms, self.features)
        return pieces | "items" >> beam.CoGroupByKey() | "fold" >> fold.with_outputs(ITEM_FEATURES, COUNTS)


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
    users, events = user_events(rows, _only(keys))
    yield TaggedOutput(COUNTS, Counted("clean_events.in", rows.num_rows))
    yield TaggedOutput(COUNTS, Counted("pages.in", pages.num_rows))
    yield TaggedOutput(PAIRS, co_visit_rows(rows, events))
    yield TaggedOutput(USER_STATES, (number, user_states(users, events, features)))
    yield TaggedOutput(PAGE_FEATURES, (number, page_features(pages, users, events, features)))


def _fold_items(
    shard: _Pieces, keys: list[ItemKeys], end_ms: int, features: Sequence[Feature] | None
) -> Iterator[TaggedOutput]:
    number, pieces = shard
    rows, pair_pieces = decode(pieces[EVENTS]), list(pieces[PAIRS])
    pairs = decode(pair_pieces) if pair_pieces else CO_VISIT_ROWS.empty_table()
    yield TaggedOutput(COUNTS, Counted("item_events.in", rows.num_rows))
    yield TaggedOutput(ITEM_FEATURES, (number, item_features(rows, pairs, _only(keys), end_ms, features)))


def _only(keys: list[ItemKeys]) -> ItemKeys:
    return keys[0] if keys else item_keys([])


def _under_one_key(items: pa.Table) -> tuple[int, bytes]:
    return 0, encode(items)


def _keys(keyed: tuple[int, Iterable[bytes]]) -> ItemKeys:
    return item_keys([decode(keyed[1])])
