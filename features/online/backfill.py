"""What the stream needs to go on from a back-fill: recent events of users, states of items, from `clean_events`.

With histories and states of users, which `features.store.filling` writes, the stream then continues exactly: as if it
had folded the events of the tables itself. Features of items stay what the tables say until the stream writes them.
Legend: `E` events.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import ITEM, features_of, memories_of
from features.events import PAIR_GAP_MS, Events, ItemKeys, co_visits
from features.folds import DAY_MS
from features.online.config import OnlineConfig
from features.online.item_states import ItemEvents, fold_item_states
from features.online.items import state_blobs
from features.online.recent import Recent, pruned
from features.schemas import CLEAN_TABLES, TIMESTAMP
from features.store.base import SEEN, NewBlob, OnlineStore, Version
from features.workspace import Table, Workspace
from kernels.hashing import hash_strings

USER_COLUMNS = ["event_id", "user_id", "item_id", "event", "timestamp", "request_id", "position"]
"""What of `clean_events` recent events need."""
_ITEM_COLUMNS = ["user_id", "item_id", "event", "timestamp"]
_KEY_COLUMNS = ["item_id", "category", "brand", "price"]
_BURST_MS = 2 * DAY_MS
"""A burst that goes on is looked for this far back; longer ones are cut."""
_ITEMS_AT_ONCE, _BLOBS_AT_ONCE = 50_000, 20_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineBackfill:
    """What was written."""

    users: int
    """Users with recent events."""
    items: int
    """Items with a state."""
    midnight_ms: int
    """The midnight before the newest event, milliseconds: features of items can be finished as of it, and later."""


def backfill_online(
    workspace: Workspace,
    store: OnlineStore,
    *,
    version: Version,
    config: OnlineConfig,
    check: Callable[[], None] = lambda: None,
) -> OnlineBackfill:
    """Write the views `seen` and `item_state`.

    Args:
        workspace: Holds the tables `clean_events` and `clean_items`.
        store: Where to write.
        version: Generation to fill, and position of the stream up to which its events are in the tables.
        config: As of the stream.
        check: Called before each write; raises if the writing must end.

    Raises:
        MissingTableError: A table has not been written yet.
        StoreUnavailableError: The store does not answer.
    """
    table = workspace.table(CLEAN_TABLES["events"])
    newest = pc.max(table.read(["timestamp"]).column("timestamp").cast(pa.int64())).as_py() or 0
    midnight = newest // DAY_MS * DAY_MS
    rows = _since(table, USER_COLUMNS, newest - config.lateness_ms - _BURST_MS)
    users = _write(store, recent_blobs(rows, version, config), check)
    remembered = midnight - max(memory.keep_ms for memory in memories_of(features_of(ITEM))) - DAY_MS
    names, happened = _item_events(_since(table, _ITEM_COLUMNS, remembered - PAIR_GAP_MS), remembered, _keys(workspace))
    for first in range(0, len(names), _ITEMS_AT_ONCE):
        part = names.slice(first, _ITEMS_AT_ONCE).to_pylist()
        states = fold_item_states([None] * len(part), happened.of_range(first, first + len(part)), midnight)
        times = np.full(len(part), newest)
        _write(store, state_blobs(part, states, np.arange(len(part)), times, version), check)
    return OnlineBackfill(users=users, items=len(names), midnight_ms=midnight)


def recent_blobs(rows: pa.Table, version: Version, config: OnlineConfig) -> Iterator[NewBlob]:
    """Yield the view `seen` of users.

    Args:
        rows: `USER_COLUMNS` of all events of these users within the lateness, and some days more.
        version: Of the blobs.
        config: How long events are kept.
    """
    names = rows.column("user_id").combine_chunks().dictionary_encode()
    users, entity = names.dictionary.to_pylist(), np.asarray(names.indices, dtype=np.int64)
    recent = pruned(Recent.of_rows(rows, entity).in_order(), config)
    earlier = dataclasses.replace(recent, latest=np.zeros(len(recent), bool))
    newest = np.zeros(len(users), np.int64)
    np.maximum.at(newest, recent.entity, recent.time)
    for user, payload, time in zip(users, earlier.payloads(len(users)), newest.tolist(), strict=True):
        yield NewBlob(SEEN, user, version, time, payload)


def _item_events(rows: pa.Table, since: int, keys: ItemKeys) -> tuple[pa.Array, ItemEvents]:
    """Return the items of these events, and their events and co-visits from a moment on, by item."""
    users = hash_strings(rows.column("user_id")).view(np.int64)
    names = rows.column("item_id").combine_chunks().dictionary_encode()
    item = np.asarray(names.indices, dtype=np.int64)
    of_users = Events.of_rows(rows, users, keys)
    own, pairs = co_visits(of_users)
    events = dataclasses.replace(of_users, entity=item)
    co_visited = dataclasses.replace(pairs, entity=item[own])
    parts = [_by_entity(part.take(part.time >= since)) for part in (events, co_visited)]
    return names.dictionary, ItemEvents(events=parts[0], pairs=parts[1], retracted=parts[1].take(np.zeros(0, np.int64)))


def _by_entity(events: Events) -> Events:
    return events.take(np.argsort(events.entity, kind="stable"))


def _since(table: Table, columns: list[str], time: int) -> pa.Table:
    moment = pa.scalar(max(time, 0), pa.int64()).cast(TIMESTAMP)
    return table.read(columns, filter=pc.field("timestamp") >= moment)


def _keys(workspace: Workspace) -> ItemKeys:
    return ItemKeys.of_items(workspace.table(CLEAN_TABLES["items"]).read(_KEY_COLUMNS))


def _write(store: OnlineStore, blobs: Iterable[NewBlob], check: Callable[[], None]) -> int:
    remaining, written = iter(blobs), 0
    while chunk := list(itertools.islice(remaining, _BLOBS_AT_ONCE)):
        check()
        written += store.write_blobs(chunk)
    return written
