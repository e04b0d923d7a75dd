"""Values of features at moments: each from the events of its entity strictly before it, nothing later.

The slow truth is `reference_values_at`, a loop that folds the earlier events of every moment anew. `values_at` does the
same for all moments at once: events are combined between one moment of an entity and its next (where whole pages of
impressions become a few rows), then every moment gathers the pieces that its memory still reaches.
Legend: `A` anchors (an entity and a moment), `E` events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from features.columns import Columns, IdColumn, stacked_ids
from features.definitions import Feature, memories_of
from features.events import Events
from features.folds import NUMBER, Numbers
from features.memories import Memory
from features.states import ENTITY, State, concat_states, take_rows
from kernels.jagged import IntArray, concat_ranges

ROWS_AT_ONCE = 2_000_000
"""Most gathered rows of one step: bounds memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchors:
    """Moments of entities, sorted by entity, then time.

    Attributes:
        entity: `A` numbers, as in the events.
        time: `A` moments, milliseconds.
    """

    entity: IntArray
    time: IntArray

    def __len__(self) -> int:
        return len(self.entity)

    def take(self, rows: np.ndarray) -> Anchors:
        """Return some of them, in their order."""
        return Anchors(entity=self.entity[rows], time=self.time[rows])

    def first_after(self, entity: IntArray, time: IntArray) -> IntArray:
        """Return the first anchor of each entity that lies later than the time; any other anchor, if none does."""
        size = len(self)
        is_query = np.repeat([0, 1], [size, len(entity)])
        # an anchor at the very time comes before the query, so the query finds the one behind it
        order = np.lexsort((is_query, np.append(self.time, time), np.append(self.entity, entity)))
        before = np.cumsum(is_query[order] == 0)
        found = np.empty(len(order), np.int64)
        found[order] = before
        return found[size:]


def values_at(
    features: Sequence[Feature],
    streams: Mapping[str, Events],
    anchors: Anchors,
    earlier: Mapping[Memory, State] | None = None,
) -> Columns:
    """Return the features' values at the anchors.

    Args:
        features: Of the entities in the events.
        streams: Stream of `features.memories` -> its events, in any order.
        anchors: `A` moments.
        earlier: States of further events, all before their entity's first anchor.

    Returns:
        `A` rows, columns named as the features.
    """
    parts: dict[str, list[Numbers | IdColumn]] = {feature.name: [] for feature in features}
    for memory in memories_of(features):
        sharing = [feature for feature in features if feature.fold.memory == memory]
        held = None if earlier is None else earlier[memory]
        for first, last, state in _states_at(memory, streams[memory.stream], anchors, held):
            for feature in sharing:
                parts[feature.name].append(feature.fold.finish(state, last - first, anchors.time[first:last]))
    return gather_columns(features, parts, len(anchors))


def reference_values_at(features: Sequence[Feature], streams: Mapping[str, Events], anchors: Anchors) -> Columns:
    """Return what `values_at` returns, one anchor and one feature at a time."""
    parts: dict[str, list[Numbers | IdColumn]] = {feature.name: [] for feature in features}
    for entity, now in zip(anchors.entity.tolist(), anchors.time.tolist(), strict=True):
        for feature in features:
            events = streams[feature.fold.memory.stream]
            earlier = events.take((events.entity == entity) & (events.time < now))
            renumbered = dataclasses.replace(earlier, entity=np.zeros(len(earlier), np.int64))
            state = feature.fold.add(feature.fold.empty(), renumbered)
            parts[feature.name].append(feature.fold.finish(state, 1, np.array([now])))
    return gather_columns(features, parts, len(anchors))


def gather_columns(
    features: Sequence[Feature], parts: Mapping[str, Sequence[Numbers | IdColumn]], rows: int
) -> Columns:
    """Put the finished values of consecutive rows together; numbers without a value get the feature's default."""
    ids, numbers = {}, {}
    for feature in features:
        if feature.kind == NUMBER:
            values = np.concatenate([part for part in parts[feature.name] if not isinstance(part, IdColumn)])
            numbers[feature.name] = np.where(np.isnan(values), np.float32(feature.default), values)
        else:
            ids[feature.name] = stacked_ids([part for part in parts[feature.name] if isinstance(part, IdColumn)])
    return Columns(rows=rows, ids=ids, numbers=numbers)


def _states_at(
    memory: Memory, events: Events, anchors: Anchors, earlier: State | None
) -> Iterator[tuple[int, int, State]]:
    """Yield the states of anchors first to last - 1, entities numbered from 0, in steps of bounded size."""
    after = anchors.first_after(events.entity, events.time)
    owned = np.flatnonzero(after < len(anchors))
    owned = owned[anchors.entity[after[owned]] == events.entity[owned]]
    pieces = memory.add(memory.empty(), dataclasses.replace(events.take(owned), entity=after[owned]))
    if earlier is not None:
        pieces = memory.merge(pieces, _at_first_anchor(earlier, anchors))
    # the pieces of anchor q hold events before q: only those of anchors within reach can hold what still counts
    oldest = anchors.first_after(anchors.entity, anchors.time - memory.keep_ms)
    parts = _Parts.of_ranges(memory, pieces, oldest, len(anchors))
    sizes = np.cumsum(np.bincount(parts.anchor, weights=parts.length, minlength=len(anchors)))
    first = 0
    while first < len(anchors) or first == 0:
        done = sizes[first - 1] if first else 0
        last = max(int(np.searchsorted(sizes, done + ROWS_AT_ONCE, side="right")), min(first + 1, len(anchors)))
        yield first, last, memory.combine(parts.gather(first, last))
        first = max(last, 1)


def _at_first_anchor(state: State, anchors: Anchors) -> State:
    """Return the rows of entities that have an anchor, as pieces of their first one."""
    first = np.searchsorted(anchors.entity, state[ENTITY])
    owned = np.flatnonzero(first < len(anchors))
    owned = owned[anchors.entity[first[owned]] == state[ENTITY][owned]]
    return {**take_rows(state, owned), ENTITY: first[owned]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parts:
    """Which rows make up the state of each anchor: pieces of single anchors, and of whole blocks of anchors.

    Blocks of 2, 4, 8, ... anchors are combined once, and a range of anchors is covered by few of them, as in a segment
    tree. So a user with ten thousand pages costs each of them some dozen blocks and not thousands of pieces. A block
    that spans two entities lies in no anchor's range.
    """

    rows: State
    anchor: IntArray
    start: IntArray
    length: IntArray

    @classmethod
    def of_ranges(cls, memory: Memory, pieces: State, oldest: IntArray, anchors: int) -> _Parts:
        """Cover the pieces of anchors oldest[a] to a, for every anchor a."""
        level, levels, base = pieces, [], 0
        found: list[tuple[IntArray, IntArray, IntArray]] = []
        left, right = oldest.copy(), np.arange(1, anchors + 1)
        while True:
            blocks = int(right.max(initial=0)) + 1
            ends = np.searchsorted(level[ENTITY], np.arange(blocks + 1))
            levels.append(level)
            takes_left = np.flatnonzero((left < right) & (left % 2 == 1))
            taken = [(takes_left, left[takes_left])]
            left[takes_left] += 1
            takes_right = np.flatnonzero((left < right) & (right % 2 == 1))
            right[takes_right] -= 1
            taken.append((takes_right, right[takes_right]))
            found += [(anchor, base + ends[block], ends[block + 1] - ends[block]) for anchor, block in taken]
            if not (left < right).any():
                break
            left, right, base = left // 2, right // 2, base + len(level[ENTITY])
            level = memory.combine({**level, ENTITY: level[ENTITY] // 2})
        anchor, start, length = (np.concatenate(columns) for columns in zip(*found, strict=True))
        order = np.argsort(anchor, kind="stable")
        return cls(rows=concat_states(levels), anchor=anchor[order], start=start[order], length=length[order])

    def gather(self, first: int, last: int) -> State:
        """Return the rows of these anchors, numbered from 0."""
        part = slice(*np.searchsorted(self.anchor, [first, last]))
        rows = take_rows(self.rows, concat_ranges(self.start[part], self.length[part]))
        return {**rows, ENTITY: np.repeat(self.anchor[part] - first, self.length[part])}
