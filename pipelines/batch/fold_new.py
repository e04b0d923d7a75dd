"""New events folded into what is known of users and items: states that grow, and the values that this changes.

A state holds all earlier events, so values at later moments need nothing else. Where a new event comes before moments
that have values already (it is late), the values behind it are computed from events again: the entity is replayed.
Pairs of a user's items (co-visits) change with the user's events; changes of pairs carry a `count`, 1 or -1.
Legend: `E` entities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import (
    ITEM,
    ITEM_STATES,
    USER,
    USER_STATES,
    Feature,
    feature_schemas,
    features_of,
    layout_of,
    memories_of,
    state_layout,
)
from features.events import CO_VISIT_ROWS, Events, ItemKeys
from features.memories import CO_VISITS, EVENTS, Counts, Memory
from features.schemas import EVENT_KINDS, TIMESTAMP
from features.states import ENTITY, State, concat_states, pack_states, take_rows, unpack_states
from kernels.jagged import IntArray
from pipelines.batch.arrow import DAY_MS, Ints, Mask, milliseconds
from pipelines.batch.folding import co_visit_rows, item_features_at, item_moments, numbered, steps_of

PAIR_CHANGES = CO_VISIT_ROWS.append(pa.field("count", pa.int64()))
"""Events of an item about another one; `count` is how many came, or went if it is negative."""
_NEVER = np.iinfo(np.int64).max


def item_memories(features: Sequence[Feature] | None = None) -> list[Memory]:
    """Return the memories of item features, then, per stream of events, the days on which an item had any.

    From these days follows at which later midnights values change although nothing happens.
    """
    chosen = features_of(ITEM, features)
    return list(dict.fromkeys([*memories_of(chosen), *day_memories(chosen)]))


def day_memories(features: Sequence[Feature]) -> list[Memory]:
    """Return what remembers on which days an item had events, per stream, as long as they may change a value."""
    return [
        Counts(codes=tuple(range(len(EVENT_KINDS))), keep_ms=days * DAY_MS, bucket_ms=DAY_MS, stream=stream)
        for stream in (EVENTS, CO_VISITS)
        if (days := -(-max(steps_of(features, stream)) // DAY_MS))
    ]


def state_days(state: State) -> np.ndarray:
    """Return entities and days of the rows of a state of `day_memories`."""
    return np.stack([state[ENTITY], state["time"] // DAY_MS], axis=1)


def event_days(events: Events) -> np.ndarray:
    """Return entities and days of events."""
    return np.stack([events.entity, events.time // DAY_MS], axis=1)


def pair_changes(rows: pa.Table, fresh: Mask, users: IntArray, keys: ItemKeys) -> pa.Table:
    """Return how the co-visits of users change, as `PAIR_CHANGES`.

    Args:
        rows: Events of users, from a day before the first new one.
        fresh: Which are new.
        users: Number of the user of each.
        keys: Of the catalogue.
    """
    parts = [pa.table([[]] * len(PAIR_CHANGES), schema=PAIR_CHANGES)]
    for sign, chosen in ((1, np.ones(len(fresh), dtype=bool)), (-1, ~fresh)):
        part = rows.filter(pa.array(chosen))
        parts.append(counted(co_visit_rows(part, Events.of_rows(part, users[chosen], keys)), sign))
    grouped = pa.concat_tables(parts).group_by(CO_VISIT_ROWS.names, use_threads=False).aggregate([("count", "sum")])
    changes = grouped.rename_columns(PAIR_CHANGES.names)
    return changes.filter(pc.not_equal(changes.column("count"), 0)).cast(PAIR_CHANGES)


def counted(pairs: pa.Table, count: int = 1) -> pa.Table:
    """Return `CO_VISIT_ROWS` as `PAIR_CHANGES`."""
    return pairs.append_column(PAIR_CHANGES.field("count"), pa.array(np.full(pairs.num_rows, count)))


def unpacked(rows: pa.Table, memories: Sequence[Memory], layout: int) -> list[State]:
    """Return the states in column `state`, entities numbered as the rows."""
    return unpack_states(rows.column("state").to_pylist(), [memory.columns for memory in memories], layout)


def grown_user_states(
    rows: pa.Table, users: pa.Array, events: Events, features: Sequence[Feature] | None = None
) -> tuple[pa.Table, dict[Memory, State]]:
    """Return rows of `user_states` after new events, and the states before them.

    Args:
        rows: Rows of `user_states` of some of the users.
        users: `E` users, sorted, those of the rows among them.
        events: New events, by users as entities.
        features: Default `FEATURES`.
    """
    memories, layout = memories_of(features_of(USER, features)), state_layout(features)
    place = _places(rows.column("user_id"), users)
    states = [_renumbered(state, place) for state in unpacked(rows, memories, layout)]
    last = np.full(len(users), np.iinfo(np.int64).min)
    last[place] = milliseconds(rows.column("last_time"))
    np.maximum.at(last, events.entity, events.time)
    grown = [memory.add(state, events) for memory, state in zip(memories, states, strict=True)]
    blobs = pack_states(grown, len(users), layout)
    schema = feature_schemas(features)[USER_STATES]
    table = pa.table([users, pa.array(last).cast(TIMESTAMP), blobs], schema=schema)
    return table, dict(zip(memories, states, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemEvents:
    """Events of items, by items as entities: their own, and those about other items, with what came and what went."""

    own: Events
    pairs: Events
    counts: IntArray

    @classmethod
    def of(cls, items: pa.Array, rows: pa.Table, pairs: pa.Table, keys: ItemKeys) -> ItemEvents:
        """Read columns `item_id`, `event`, `timestamp` of events, and `PAIR_CHANGES`, all of them of `items`."""
        return cls(
            own=Events.of_rows(rows, _places(rows.column("item_id"), items), keys),
            pairs=Events(
                entity=_places(pairs.column("item_id"), items),
                time=milliseconds(pairs.column("timestamp")),
                code=np.asarray(pairs.column("code")),
                item=np.asarray(pairs.column("other")),
                keys=keys,
            ),
            counts=np.asarray(pairs.column("count")),
        )

    def streams(self) -> dict[str, Events]:
        """Return each stream of what came."""
        times = np.maximum(self.counts, 0)
        return {EVENTS: self.own, CO_VISITS: self.pairs.take(np.repeat(np.arange(len(times)), times))}

    def first_time(self, entities: int) -> Ints:
        """Return the time of the first change of each of `E` items."""
        first = np.full(entities, _NEVER)
        for events in (self.own, self.pairs):
            np.minimum.at(first, events.entity, events.time)
        return first

    def added_to(self, memory: Memory, state: State) -> State:
        """Return a state after these changes; what went is subtracted."""
        state = memory.add(state, self.streams()[memory.stream])
        gone = np.maximum(-self.counts, 0) if memory.stream == CO_VISITS else np.zeros(0, np.int64)
        if not gone.any():
            return state
        lost = self.pairs.take(np.repeat(np.arange(len(gone)), gone))
        rows = memory.rows_of(lost.take(np.isin(lost.code, memory.codes)))
        rows["count"] = -rows["count"]
        left = memory.combine(concat_states([state, rows]))
        return take_rows(left, left["count"] != 0)


def item_states(
    rows: pa.Table, pairs: pa.Table, catalogue: pa.Table, keys: ItemKeys, features: Sequence[Feature] | None = None
) -> pa.Table:
    """Return rows of `item_states`: all events of some items, and `CO_VISIT_ROWS` of them, folded and packed."""
    items, _ = numbered(
        pa.chunked_array([*rows.column("item_id").chunks, *pairs.column("item_id").chunks], pa.string())
    )
    events = ItemEvents.of(items, rows, counted(pairs), keys)
    states = [events.added_to(memory, memory.empty()) for memory in item_memories(features)]
    return item_state_rows(items, states, catalogue, features)


def item_state_rows(
    items: pa.Array, states: Sequence[State], catalogue: pa.Table, features: Sequence[Feature] | None = None
) -> pa.Table:
    """Return rows of `item_states`.

    Args:
        items: `E` items, sorted.
        states: Of `item_memories`, by items as entities.
        catalogue: Columns `item_id`, `category`, `brand` and `price` of all items.
        features: Default `FEATURES`.
    """
    at = pc.index_in(items, value_set=catalogue.column("item_id").combine_chunks())
    known = [catalogue.column(name).combine_chunks().take(at) for name in ("category", "brand", "price")]
    blobs = pack_states(states, len(items), layout_of(item_memories(features)))
    return pa.table([items, *known, blobs], schema=feature_schemas(features)[ITEM_STATES])


def regressed(before: State, after: State, entities: int) -> Mask:
    """Return of which entities the newest row is older than it was: rows that were dropped then would count again."""
    newest = []
    for state in (before, after):
        times = np.full(entities, np.iinfo(np.int64).min)
        np.maximum.at(times, state[ENTITY], state["time"])
        newest.append(times)
    return newest[1] < newest[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrownItems:
    """What becomes of some items.

    Attributes:
        states: Rows of `item_states`.
        added: Rows of `item_features`.
        removed: Keys of those that they replace.
        regressed: States that cannot be told from the ones before, because what went was the newest.
    """

    states: pa.Table
    added: pa.Table
    removed: pa.Table
    regressed: int


def grown_items(
    parts: Mapping[str, pa.Table],
    catalogue: pa.Table,
    keys: ItemKeys,
    midnights: tuple[int, int],
    features: Sequence[Feature] | None = None,
) -> GrownItems:
    """Fold changes into the items of a shard.

    Args:
        parts: `fresh` events, `changes` of pairs and rows of `states`; of replayed items `events`, `pairs` and the
            `keys` of rows of `item_features`.
        catalogue: Columns `item_id`, `category`, `brand` and `price` of all items.
        keys: Of the catalogue.
        midnights: The last one that has values already, and the last one now.
        features: Default `FEATURES`.
    """
    fresh, changes, rows = parts["fresh"], parts["changes"], parts["states"]
    columns = [table.column("item_id") for table in (rows, fresh, changes)]
    items, _ = numbered(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
    chosen, memories = features_of(ITEM, features), item_memories(features)
    place = _places(rows.column("item_id"), items)
    before = [_renumbered(state, place) for state in unpacked(rows, memories, layout_of(memories))]
    came = ItemEvents.of(items, fresh, changes, keys)
    after = [came.added_to(memory, state) for memory, state in zip(memories, before, strict=True)]
    since = came.first_time(len(items))
    late = since < midnights[0]
    known, streams = dict(zip(memories, before, strict=True)), came.streams()
    days = {
        # of the states before: grown ones have dropped days that count at midnights between their newest event and now
        memory.stream: np.concatenate([state_days(known[memory]), event_days(streams[memory.stream])])
        for memory in day_memories(chosen)
    }
    days = {stream: pairs[~late[pairs[:, 0]]] for stream, pairs in days.items()}
    later = item_moments(chosen, days, midnights[1])
    later = later.take(later.time > midnights[0])
    added = [item_features_at(items, streams, later, features, known)]
    again = ItemEvents.of(items, parts["events"], parts["pairs"], keys)
    replayed = {name: events.take(late[events.entity]) for name, events in again.streams().items()}
    moments = item_moments(chosen, {name: event_days(events) for name, events in replayed.items()}, midnights[1])
    moments = moments.take(moments.time > since[moments.entity])
    added.append(item_features_at(items, replayed, moments, features))
    pairs = [pair for pair in zip(memories, before, after, strict=True) if pair[0].stream == CO_VISITS]
    return GrownItems(
        states=item_state_rows(items, after, catalogue, features),
        added=pa.concat_tables(added),
        removed=_behind(parts["keys"], items, since, late),
        regressed=sum(int(regressed(old, new, len(items)).sum()) for _, old, new in pairs),
    )


def _behind(keys: pa.Table, items: pa.Array, since: Ints, late: Mask) -> pa.Table:
    """Return the keys of late items behind their first changes."""
    place = _places(keys.column("item_id"), items)
    return keys.filter(pa.array(late[place] & (milliseconds(keys.column("as_of")) > since[place])))


def _places(ids: pa.ChunkedArray | pa.Array, distinct: pa.Array) -> IntArray:
    return np.asarray(pc.index_in(ids, value_set=distinct), dtype=np.int64)


def _renumbered(state: State, place: IntArray) -> State:
    """Return a state whose entities have the numbers of their places, which increase with them."""
    return {**state, ENTITY: place[state[ENTITY]]}
