"""The state of an item's features between midnights, with which the values as of a midnight can be finished.

Features of items hold as of a midnight, while events of the day that has begun arrive, and late ones of the day before.
So a state has two parts: what happened before the midnight, combined for ever; and, apart, what happened on each day
since. When the next midnight passes, a day becomes part of the past. The packed state is that of `features.states`,
each row with its `day`: the day's number since 1970, or `PAST_DAY`.

Co-visits that are taken back are subtracted, which memories that count allow (`features.memories.Counts`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from features.columns import Columns
from features.definitions import ITEM, Feature, features_of, memories_of
from features.events import Events
from features.folds import DAY_MS
from features.memories import CO_VISITS, Memory
from features.online.recent import Mask
from features.point_in_time import gather_columns
from features.states import ENTITY, State, concat_states, pack_states, take_rows, unpack_states
from kernels.jagged import IntArray

PAST_DAY = -1
_VERSION = 1
_DAY = "day"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemEvents:
    """What happened to items 0, 1, ...

    Attributes:
        events: Their own events.
        pairs: Co-visits that were made.
        retracted: Co-visits that were taken back.
    """

    events: Events
    pairs: Events
    retracted: Events

    def of_items(self, chosen: Mask) -> ItemEvents:
        """Return what happened to the chosen items, which keep their numbers."""
        return ItemEvents(**{name: part.take(chosen[part.entity]) for name, part in self._parts().items()})

    def of_range(self, first: int, last: int) -> ItemEvents:
        """Return what happened to items first to last - 1, numbered from 0; events lie by item."""
        parts = {}
        for name, part in self._parts().items():
            rows = part.take(np.arange(*np.searchsorted(part.entity, [first, last])))
            parts[name] = dataclasses.replace(rows, entity=rows.entity - first)
        return ItemEvents(**parts)

    def newest_time(self) -> int:
        """Return the time of the newest event or co-visit, 0 without any."""
        return max(int(part.time.max(initial=0)) for part in self._parts().values())

    def _parts(self) -> dict[str, Events]:
        return {"events": self.events, "pairs": self.pairs, "retracted": self.retracted}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemStates:
    """States of items 0, 1, ..., as of a midnight.

    Attributes:
        items: Number of items.
        midnight_ms: The midnight, milliseconds.
        days: One more than the days since the midnight that have events.
        states: Per memory; `entity` is `item * days + d`: d is 0 before the midnight, then 1, 2, ... day by day.
        features: Of items.
    """

    items: int
    midnight_ms: int
    days: int
    states: Sequence[State]
    features: tuple[Feature, ...]

    def payloads(self) -> pa.BinaryArray:
        """Pack the state of each item."""
        today = self.midnight_ms // DAY_MS
        packed = []
        for state in self.states:
            item, since = np.divmod(state[ENTITY], self.days)
            day = np.where(since, today + since - 1, PAST_DAY)
            packed.append({**state, ENTITY: item, _DAY: day})
        return pack_states(packed, self.items, item_layout(self.features))

    def finish(self, items: IntArray) -> tuple[Columns, Mask]:
        """Return the features as of the midnight.

        Args:
            items: Numbers of the items wanted, increasing.

        Returns:
            A row per item wanted; and whether anything happened to it before the midnight.
        """
        number = np.full(self.items, -1, np.int64)
        number[items] = np.arange(len(items))
        now, known = np.full(len(items), self.midnight_ms), np.zeros(len(items), bool)
        parts = {}
        for memory, state in zip(memories_of(self.features), self.states, strict=True):
            past = state[ENTITY] % self.days == 0
            rows = take_rows(state, past & (number[state[ENTITY] // self.days] >= 0))
            rows[ENTITY] = number[rows[ENTITY] // self.days]
            known[rows[ENTITY]] = True
            for feature in self.features:
                if feature.fold.memory == memory:
                    parts[feature.name] = [feature.fold.finish(rows, len(items), now)]
        return gather_columns(self.features, parts, len(items)), known


def fold_item_states(
    payloads: Sequence[bytes | None],
    happened: ItemEvents,
    midnight_ms: int,
) -> ItemStates:
    """Fold events into states, and bring these to a midnight.

    Args:
        payloads: What was held of items 0, 1, ..., as of this or any earlier midnight; None: nothing.
        happened: New events of these items.
        midnight_ms: The newest midnight, milliseconds.

    Raises:
        StaleStateError: A state was packed for other features.
    """
    chosen, today = features_of(ITEM), midnight_ms // DAY_MS
    memories = memories_of(chosen)
    held = unpack_states(payloads, [(*memory.columns, _DAY) for memory in memories], item_layout(chosen))
    newest = max([today - 1, happened.newest_time() // DAY_MS, *(int(state[_DAY].max(initial=0)) for state in held)])
    days = newest - today + 2
    states = []
    for memory, state in zip(memories, held, strict=True):
        since = np.maximum(state.pop(_DAY) - today + 1, 0)
        rows = [{**state, ENTITY: state[ENTITY] * days + since}, *_new_rows(memory, happened, today, days)]
        states.append(memory.combine(concat_states(rows)))
    return ItemStates(items=len(payloads), midnight_ms=midnight_ms, days=days, states=states, features=chosen)


def item_layout(features: Sequence[Feature]) -> int:
    """Return the 64 bits that name the layout of packed item states: the memories, in order, and the version."""
    text = repr((_VERSION, _DAY, memories_of(features)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _new_rows(memory: Memory, happened: ItemEvents, today: int, days: int) -> list[State]:
    def rows_of(events: Events) -> State:
        remembered = events.take(np.isin(events.code, memory.codes))
        since = np.maximum(remembered.time // DAY_MS - today + 1, 0)
        return memory.rows_of(dataclasses.replace(remembered, entity=remembered.entity * days + since))

    if memory.stream != CO_VISITS:
        return [rows_of(happened.events)]
    retracted = rows_of(happened.retracted)
    return [rows_of(happened.pairs), {**retracted, "count": -retracted["count"]}]
