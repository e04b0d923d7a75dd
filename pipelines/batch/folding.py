"""Features of a shard of users or items: the arithmetic between clean events and the tables of features.

Rows come out sorted by id and time, so they do not depend on the order in which a shuffle delivered them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import (
    ITEM,
    ITEM_FEATURES,
    PAGE_FEATURES,
    USER,
    USER_STATES,
    Feature,
    feature_schemas,
    features_of,
    memories_of,
    state_layout,
)
from features.events import CO_VISIT_ROWS, Events, ItemKeys, co_visits
from features.memories import CO_VISITS, EVENTS, Memory
from features.point_in_time import Anchors, values_at
from features.schemas import ITEMS, TIMESTAMP
from features.states import State, pack_states
from features.values import to_arrays
from kernels.jagged import IntArray
from pipelines.batch.arrow import DAY_MS, milliseconds

EVENT_COLUMNS = ["user_id", "item_id", "event", "timestamp"]
ANCHOR_COLUMNS = ["request_id", "user_id", "timestamp"]
KEY_COLUMNS = ["item_id", "category", "brand", "price"]


def user_events(rows: pa.Table, keys: ItemKeys) -> tuple[pa.Array, Events]:
    """Return the users of some events, sorted, and the events with users as entities."""
    users, entity = numbered(rows.column("user_id"))
    return users, Events.of_rows(rows, entity, keys)


def page_features(
    pages: pa.Table,
    users: pa.Array,
    events: Events,
    features: Sequence[Feature] | None = None,
    earlier: Mapping[Memory, State] | None = None,
) -> pa.Table:
    """Return rows of `page_features`, sorted by user, time and request id.

    Args:
        pages: Columns `ANCHOR_COLUMNS` of all pages of the users.
        users: What `user_events` returns.
        events: The same.
        features: Default `FEATURES`.
        earlier: States of further events, which lie before all pages of their users.
    """
    order = [(name, "ascending") for name in ("user_id", "timestamp", "request_id")]
    ordered = pages.select(ANCHOR_COLUMNS).sort_by(order)
    entity = np.asarray(pc.index_in(ordered.column("user_id"), value_set=users), dtype=np.int64)
    chosen = features_of(USER, features)
    anchors = Anchors(entity=entity, time=milliseconds(ordered.column("timestamp")))
    values = values_at(chosen, {EVENTS: events}, anchors, earlier)
    schema = feature_schemas(features)[PAGE_FEATURES]
    return pa.table([*ordered.columns, *to_arrays(values, chosen)], schema=schema)


def user_states(users: pa.Array, events: Events, features: Sequence[Feature] | None = None) -> pa.Table:
    """Return rows of `user_states`: all events of these users, folded and packed."""
    last = np.full(len(users), np.iinfo(np.int64).min)
    np.maximum.at(last, events.entity, events.time)
    states = [memory.add(memory.empty(), events) for memory in memories_of(features_of(USER, features))]
    packed = pack_states(states, len(users), state_layout(features))
    return pa.table([users, pa.array(last).cast(TIMESTAMP), packed], schema=feature_schemas(features)[USER_STATES])


def co_visit_rows(rows: pa.Table, events: Events) -> pa.Table:
    """Return the co-visits of whole users as rows of `CO_VISIT_ROWS`."""
    own, pairs = co_visits(events)
    item_ids = rows.column("item_id").take(pa.array(own))
    return pa.table([item_ids, pa.array(pairs.time).cast(TIMESTAMP), pairs.code, pairs.item], schema=CO_VISIT_ROWS)


def item_features(
    rows: pa.Table, pairs: pa.Table, keys: ItemKeys, end_ms: int, features: Sequence[Feature] | None = None
) -> pa.Table:
    """Return rows of `item_features`, sorted by item and midnight.

    Args:
        rows: Columns `item_id`, `event`, `timestamp` of all events of the items.
        pairs: `CO_VISIT_ROWS` of the items.
        keys: Of the catalogue.
        end_ms: The last midnight, behind the last event of all items.
        features: Default `FEATURES`.
    """
    items, entity = numbered(pa.chunked_array([*rows.column("item_id").chunks, *pairs.column("item_id").chunks]))
    streams = {
        EVENTS: Events.of_rows(rows, entity[: rows.num_rows], keys),
        CO_VISITS: Events(
            entity=entity[rows.num_rows :],
            time=milliseconds(pairs.column("timestamp")),
            code=np.asarray(pairs.column("code")),
            item=np.asarray(pairs.column("other")),
            keys=keys,
        ),
    }
    chosen = features_of(ITEM, features)
    days = {name: np.stack([events.entity, events.time // DAY_MS], axis=1) for name, events in streams.items()}
    return item_features_at(items, streams, item_moments(chosen, days, end_ms), features)


def item_features_at(
    items: pa.Array,
    streams: Mapping[str, Events],
    anchors: Anchors,
    features: Sequence[Feature] | None = None,
    earlier: Mapping[Memory, State] | None = None,
) -> pa.Table:
    """Return rows of `item_features`: the values of items, numbered as the events have them, at midnights."""
    chosen = features_of(ITEM, features)
    values = values_at(chosen, streams, anchors, earlier)
    columns = [items.take(pa.array(anchors.entity)), pa.array(anchors.time).cast(TIMESTAMP)]
    return pa.table([*columns, *to_arrays(values, chosen)], schema=feature_schemas(features)[ITEM_FEATURES])


def item_moments(features: Sequence[Feature], days: Mapping[str, np.ndarray], end_ms: int) -> Anchors:
    """Return the midnights at which a feature of an item may change: behind an event's day, and some steps later.

    Args:
        features: Of items.
        days: Stream -> pairs of item and day of its events.
        end_ms: The last midnight.
    """
    found = [np.zeros((0, 2), np.int64)]
    for stream, pairs in days.items():
        distinct = _distinct(pairs + np.array([0, 1]))
        found += [distinct + np.array([0, -(-step // DAY_MS)]) for step in sorted(steps_of(features, stream))]
    moments = _distinct(np.concatenate(found))
    moments = moments[moments[:, 1] * DAY_MS <= end_ms]
    return Anchors(entity=moments[:, 0], time=moments[:, 1] * DAY_MS)


def steps_of(features: Sequence[Feature], stream: str) -> set[int]:
    """Return the ages, in milliseconds, at which an event of the stream may change a value."""
    return {0} | {step for f in features if f.fold.memory.stream == stream for step in f.fold.steps_ms()}


def item_keys(tables: Iterable[pa.Table]) -> ItemKeys:
    """Return the keys of the whole catalogue, given in parts."""
    return ItemKeys.of_items(catalogue_rows(tables))


def catalogue_rows(tables: Iterable[pa.Table]) -> pa.Table:
    """Return columns `KEY_COLUMNS` of the whole catalogue, given in parts."""
    return pa.concat_tables([_KEYS.empty_table(), *(table.cast(_KEYS) for table in tables)]).combine_chunks()


_KEYS = pa.schema([ITEMS.field(name).with_nullable(True) for name in KEY_COLUMNS])


def numbered(ids: pa.ChunkedArray) -> tuple[pa.Array, IntArray]:
    """Return the distinct ids, sorted, and the number of each row's id."""
    distinct = pc.unique(ids)
    distinct = distinct.take(pc.sort_indices(distinct))
    return distinct, np.asarray(pc.index_in(ids, value_set=distinct), dtype=np.int64)


def _distinct(rows: np.ndarray) -> np.ndarray:
    if not len(rows):
        return rows
    ordered = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return ordered[np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))]
