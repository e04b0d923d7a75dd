"""New events -> what becomes of tables of features: the Beam side of `fold_new`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsList, TaggedOutput

from features.definitions import ITEM_FEATURES, ITEM_STATES, PAGE_FEATURES, USER_STATES, Feature, feature_schemas
from features.events import Events, ItemKeys
from features.schemas import EVENT_KINDS, POSITIVE_CODES
from features.schemas import EVENTS as EVENT_ROWS
from features.states import ENTITY, take_rows
from pipelines.batch.arrow import decode
from pipelines.batch.fold_new import PAIR_CHANGES, counted, grown_items, grown_user_states, pair_changes
from pipelines.batch.folding import ANCHOR_COLUMNS, catalogue_rows, co_visit_rows, page_features, user_events
from pipelines.batch.folding_transforms import only
from pipelines.batch.increment import FRESH
from pipelines.batch.merge import ADDED, REMOVED
from pipelines.batch.runner import Counted
from pipelines.batch.transforms import COUNTS, SORT_KEYS, split_by_shard

CHANGES, STATES = "changes", "states"
REGRESSED = "items.regressed"
"""Counts items whose states cannot be told from the ones before."""
FRESH_COLUMNS = ["event_id", "user_id", "item_id", "event", "timestamp"]
_Pieces = tuple[int, Mapping[str, Iterable[bytes]]]


class FoldNewUsers(beam.PTransform):
    """New events -> (shard, rows) of `user_states`, rows to add to `page_features`, `changes` of pairs, `counts`.

    Args:
        shards: Number of shards of users.
        replayed: Users whose values are computed from events.
        features: Default `FEATURES`.
    """

    def __init__(self, shards: int, replayed: pa.Array, features: Sequence[Feature] | None) -> None:
        super().__init__()
        self.shards, self.replayed, self.features = shards, replayed, features

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Bring users together.

        Inputs are `fresh` events, `events` from a day before them (of replayed users all that count), `anchors`: the
        pages to be valued, `states`, and `keys_of_items` (`CatalogueKeys`).
        """
        pieces = _pieces(inputs, ("fresh", "events", "anchors", "states"), "user_id", self.shards)
        fold = beam.FlatMap(_fold_users, AsList(inputs["keys_of_items"]), self.replayed, self.features)
        outputs = fold.with_outputs(USER_STATES, PAGE_FEATURES, CHANGES, COUNTS)
        return pieces | "users" >> beam.CoGroupByKey() | "fold" >> outputs


class FoldNewItems(beam.PTransform):
    """New events and changes of pairs -> (shard, rows) of `item_states`, rows `added` and `removed`, and `counts`.

    Args:
        shards: Number of shards of items.
        midnights: The last one that has values already, and the last one now.
        features: Default `FEATURES`.
    """

    def __init__(self, shards: int, midnights: tuple[int, int], features: Sequence[Feature] | None) -> None:
        super().__init__()
        self.shards, self.midnights, self.features = shards, midnights, features

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Bring items together; inputs are those parts of `grown_items`, `keys_of_items` and the `catalogue`."""
        parts = ("fresh", CHANGES, STATES, "events", "pairs", "keys")
        pieces = _pieces(inputs, parts, "item_id", self.shards)
        sides = AsList(inputs["keys_of_items"]), AsList(inputs["catalogue"])
        fold = beam.FlatMap(_fold_items, *sides, self.midnights, self.features)
        outputs = fold.with_outputs(ITEM_STATES, ADDED, REMOVED, COUNTS)
        return pieces | "items" >> beam.CoGroupByKey() | "fold" >> outputs


class PairsOf(beam.PTransform):
    """Events -> co-visits of some items, among all events."""

    def __init__(self, shards: int, items: pa.Array) -> None:
        super().__init__()
        self.shards, self.items = shards, items

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        """Bring the positive events of users together."""
        positive = inputs["events"] | "positive" >> beam.Map(_positive)
        pieces = positive | "by user" >> beam.FlatMap(split_by_shard, "user_id", self.shards)
        pairs = beam.Map(_pairs, AsList(inputs["keys_of_items"]), self.items)
        return pieces | "users" >> beam.GroupByKey() | "pairs" >> pairs


def rows_among(rows: pa.Table, column: str, ids: pa.Array) -> pa.Table:
    """Return the rows with one of the ids in a column."""
    return rows.filter(pc.is_in(rows.column(column), value_set=ids))


def _pieces(
    inputs: Mapping[str, beam.PCollection], names: Sequence[str], column: str, shards: int
) -> dict[str, beam.PCollection]:
    return {name: inputs[name] | f"{name} by id" >> beam.FlatMap(split_by_shard, column, shards) for name in names}


def _fold_users(
    shard: _Pieces, catalogue: list[ItemKeys], replayed: pa.Array, features: Sequence[Feature] | None
) -> Iterator[TaggedOutput]:
    number, pieces = shard
    schemas = feature_schemas(features)
    fresh, rows = (_table(pieces[name], _EVENTS) for name in ("fresh", "events"))
    anchors, states = _table(pieces["anchors"], _ANCHORS), _table(pieces["states"], schemas[USER_STATES])
    keys = only(catalogue)
    named = [*fresh.column("user_id").chunks, *anchors.column("user_id").chunks]
    users = pc.unique(pa.chunked_array(named, pa.string()))
    users = users.take(pc.sort_indices(users))
    known = pc.is_in(states.column("user_id"), value_set=users)
    events = _events_of(fresh, users, keys)
    grown, before = grown_user_states(states.filter(known), users, events, features)
    all_states = pa.concat_tables([states.filter(pc.invert(known)), grown]).sort_by("user_id")
    again = pc.is_in(fresh.column("user_id"), value_set=replayed)
    valued = pa.concat_tables([fresh.filter(pc.invert(again)), rows_among(rows, "user_id", replayed)])
    forward = ~np.asarray(pc.is_in(users, value_set=replayed), dtype=bool)
    earlier = {memory: take_rows(state, forward[state[ENTITY]]) for memory, state in before.items()}
    values = page_features(anchors, users, _events_of(valued, users, keys), features, earlier)
    near = rows_among(rows, "user_id", pc.unique(fresh.column("user_id")))
    ids = fresh.column("event_id").combine_chunks()
    is_new = np.asarray(pc.is_in(near.column("event_id"), value_set=ids), dtype=bool)
    yield TaggedOutput(COUNTS, Counted(f"{FRESH}.in", fresh.num_rows))
    yield TaggedOutput(COUNTS, Counted("anchors.in", anchors.num_rows))
    yield TaggedOutput(CHANGES, pair_changes(near, is_new, _numbers(near, users), keys))
    yield TaggedOutput(USER_STATES, (number, all_states.combine_chunks()))
    yield TaggedOutput(PAGE_FEATURES, values)


def _fold_items(
    shard: _Pieces,
    keys: list[ItemKeys],
    catalogue: list[pa.Table],
    midnights: tuple[int, int],
    features: Sequence[Feature] | None,
) -> Iterator[TaggedOutput]:
    number, pieces = shard
    schemas = feature_schemas(features)
    empty = {
        "fresh": _EVENTS,
        CHANGES: PAIR_CHANGES,
        STATES: schemas[ITEM_STATES],
        "events": _EVENTS,
        "pairs": PAIR_CHANGES,
        "keys": _select(schemas[ITEM_FEATURES], SORT_KEYS[ITEM_FEATURES]),
    }
    parts = {name: _table(pieces[name], schema) for name, schema in empty.items()}
    grown = grown_items(parts, catalogue_rows(catalogue), only(keys), midnights, features)
    yield TaggedOutput(COUNTS, Counted(f"item_{FRESH}.in", parts["fresh"].num_rows))
    yield TaggedOutput(COUNTS, Counted(REGRESSED, grown.regressed))
    yield TaggedOutput(ITEM_STATES, (number, grown.states))
    yield TaggedOutput(ADDED, grown.added)
    yield TaggedOutput(REMOVED, grown.removed)


def _positive(rows: pa.Table) -> pa.Table:
    return rows_among(rows, "event", _POSITIVE)


def _pairs(shard: tuple[int, Iterable[bytes]], keys: list[ItemKeys], items: pa.Array) -> pa.Table:
    rows = decode(shard[1])
    _, events = user_events(rows, only(keys))
    return counted(rows_among(co_visit_rows(rows, events), "item_id", items))


def _events_of(rows: pa.Table, users: pa.Array, keys: ItemKeys) -> Events:
    return Events.of_rows(rows, _numbers(rows, users), keys)


def _numbers(rows: pa.Table, users: pa.Array) -> np.ndarray:
    return np.asarray(pc.index_in(rows.column("user_id"), value_set=users), dtype=np.int64)


def _table(blobs: Iterable[bytes], schema: pa.Schema) -> pa.Table:
    held = list(blobs)
    return decode(held).cast(schema) if held else schema.empty_table()


def _select(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names])


_POSITIVE = pa.array([EVENT_KINDS[code] for code in POSITIVE_CODES])
_EVENTS = _select(EVENT_ROWS, FRESH_COLUMNS)
_ANCHORS = _select(feature_schemas()[PAGE_FEATURES], ANCHOR_COLUMNS)
