"""What happened to items folded into their views; and item features, as of the newest midnight.

Item features hold from one midnight (00:00 UTC) to the next, as in the batch table `item_features`: `fold_items` adds
to the states, and writes features only where an event from before the midnight came late; when a midnight passes,
`refresh_items` writes those of all items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import ITEM, features_of
from features.events import Events, ItemKeys
from features.online.item_states import ItemEvents, ItemStates, fold_item_states, item_layout
from features.online.pairs import PAIR_ROWS
from features.online.recent import NO_KEYS
from features.schemas import EVENT_KINDS
from features.store.base import ITEM_STATE, Held, NewBlob, OnlineStore, Version
from kernels.hashing import hash_strings
from kernels.jagged import IntArray

ITEM_EVENT_ROWS = PAIR_ROWS
"""Events of items: beside co-visits their own, which have no `other` and count once."""


def fold_items(
    store: OnlineStore,
    rows: pa.Table,
    positions: IntArray,
    keys: ItemKeys,
    *,
    version: Version,
    midnight_ms: int,
) -> int:
    """Fold events and co-visits into the views `item_state` and `item_features` of their items.

    Rows are folded in the order of their positions, and a state holds all rows up to its own: so rows may be folded
    again, here or later, and count once.

    Args:
        store: Holds and takes the views.
        rows: `R` rows of `ITEM_EVENT_ROWS`: all of these items that were not folded yet, perhaps others that were.
        positions: `R` positions of the ranges that brought them, at most that of `version`.
        keys: Of the catalogue.
        version: Generation to fold into, and position up to which these are all rows.
        midnight_ms: The newest midnight, milliseconds; never before that of an earlier fold.

    Returns:
        Number of items whose features were written.

    Raises:
        StoreUnavailableError: The store does not answer.
    """
    ids = pa.concat_arrays([pa.array([], pa.string()), *rows.column("item_id").chunks]).dictionary_encode()
    names, entity = ids.dictionary.to_pylist(), np.asarray(ids.indices, dtype=np.int64)
    held = store.read_blobs([(ITEM_STATE, name) for name in names], generation=version.generation)
    reached = np.array([-1 if blob is None else blob.version.position for blob in held], dtype=np.int64)
    new = positions > reached[entity]
    happened = item_events(rows.filter(pa.array(new)), entity[new], keys)
    states = fold_item_states(_payloads(held), happened, midnight_ms)
    blobs = state_blobs(names, states, np.unique(entity[new]), _newest(happened, held), version)
    store.write_blobs(blobs)
    late = _milliseconds(rows) < midnight_ms
    return _write_features(store, names, states, np.unique(entity[late]), version)


def refresh_items(
    store: OnlineStore,
    item_ids: Sequence[str],
    *,
    version: Version,
    midnight_ms: int,
) -> int:
    """Write the features of items as of a midnight that has passed.

    Args:
        store: Holds the view `item_state`, takes the view `item_features`.
        item_ids: Distinct items, perhaps without events.
        version: Generation to write into, and position up to which events are folded in.
        midnight_ms: The newest midnight, milliseconds.

    Returns:
        Number of items whose features were written: those with events before the midnight.

    Raises:
        StoreUnavailableError: The store does not answer.
    """
    held = store.read_blobs([(ITEM_STATE, item_id) for item_id in item_ids], generation=version.generation)
    found = [row for row, blob in enumerate(held) if blob is not None]
    payloads = _payloads([held[row] for row in found])
    states = fold_item_states(payloads, _NOTHING, midnight_ms)
    return _write_features(store, [item_ids[row] for row in found], states, np.arange(len(found)), version)


def item_rows(events: pa.Table, pairs: pa.Table) -> pa.Table:
    """Return rows of `ITEM_EVENT_ROWS`.

    Args:
        events: Fresh rows of `features.schemas.EVENTS`.
        pairs: Co-visits, rows of `features.online.pairs.PAIR_ROWS`.
    """
    own = {
        "item_id": events.column("item_id"),
        "timestamp": events.column("timestamp"),
        "code": pc.index_in(events.column("event"), value_set=pa.array(EVENT_KINDS)).cast(pa.int8()),
        "other": pa.nulls(events.num_rows, pa.int64()),
        "count": pa.array(np.ones(events.num_rows, np.int8)),
    }
    return pa.concat_tables([pa.table(own, ITEM_EVENT_ROWS), pairs])


def item_events(rows: pa.Table, entity: IntArray, keys: ItemKeys) -> ItemEvents:
    """Return what happened to items; `entity` numbers the item of each of these rows of `ITEM_EVENT_ROWS`."""
    shared, others = np.asarray(rows.column("other").is_valid()), rows.column("other").fill_null(0)
    own = hash_strings(rows.column("item_id")).view(np.int64)
    everything = Events(
        entity=entity,
        time=_milliseconds(rows),
        code=np.asarray(rows.column("code")),
        item=np.where(shared, np.asarray(others), own),
        keys=keys,
    )
    count = np.asarray(rows.column("count"))
    made, retracted = (np.repeat(np.arange(len(count)), shared * np.maximum(times, 0)) for times in (count, -count))
    events, pairs, parted = (everything.take(chosen) for chosen in (~shared, made, retracted))
    return ItemEvents(events=events, pairs=pairs, retracted=parted)


def _milliseconds(rows: pa.Table) -> IntArray:
    """Return the times of rows."""
    return np.asarray(rows.column("timestamp").cast(pa.int64()), dtype=np.int64)


def state_blobs(
    names: list[str], states: ItemStates, chosen: IntArray, newest: IntArray, version: Version
) -> Iterator[NewBlob]:
    """Yield the view `item_state` of the chosen items; `newest` is the time of each item's newest event."""
    payloads = states.payloads().take(pa.array(chosen)).to_pylist()
    for item, payload in zip(chosen.tolist(), payloads, strict=True):
        yield NewBlob(ITEM_STATE, names[item], version, int(newest[item]), payload)


def _write_features(
    store: OnlineStore, names: Sequence[str], states: ItemStates, items: IntArray, version: Version
) -> int:
    columns, known = states.finish(items)
    wanted = np.flatnonzero(known)
    chosen = [names[item] for item in items[wanted].tolist()]
    times = [states.midnight_ms] * len(chosen)
    store.write_item_features(chosen, columns.take(wanted), event_times=times, version=version)
    return len(chosen)


def _newest(happened: ItemEvents, held: Sequence[Held | None]) -> IntArray:
    newest = np.array([0 if blob is None else blob.event_time for blob in held], dtype=np.int64)
    for events in (happened.events, happened.pairs):
        np.maximum.at(newest, events.entity, events.time)
    return newest


def _payloads(held: Sequence[Held | None]) -> list[bytes | None]:
    """Return the states; one that was packed for other features counts as missing, as a user's does."""
    layout = item_layout(features_of(ITEM)).to_bytes(8, "little")
    return [blob.payload if blob is not None and blob.payload.startswith(layout) else None for blob in held]


_NO_EVENTS = Events(
    entity=np.zeros(0, np.int64),
    time=np.zeros(0, np.int64),
    code=np.zeros(0, np.int8),
    item=np.zeros(0, np.int64),
    keys=NO_KEYS,
)
_NOTHING = ItemEvents(events=_NO_EVENTS, pairs=_NO_EVENTS, retracted=_NO_EVENTS)
