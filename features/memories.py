"""What folds remember of events: counts per time bucket, or the newest items.

A memory is the part of a fold that grows: `empty`, `add`, `merge` over states of many entities at once. Merging is
associative and does not depend on order, so states of parts of the events may be built anywhere and merged anyhow;
features with equal memories share one state.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from features.events import ITEM_ID, Events
from features.states import ENTITY, State, concat_states, drop_old, empty_state, sorted_order, sum_rows, take_rows
from kernels.jagged import IntArray, concat_ranges, run_starts

EVENTS, CO_VISITS = "events", "co_visits"
"""Streams of events: an entity's own, and those of `features.events.co_visits`."""
NO_PRICE = -1
PRICE_STEPS = 1_000_000
"""Prices are remembered in millionths."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(abc.ABC):
    """The common part of memories."""

    columns: ClassVar[tuple[str, ...]]
    """Of a state, beside `entity`; `time` is always one of them."""

    codes: tuple[int, ...]
    """Codes of the event kinds that are remembered."""
    keep_ms: int
    """Milliseconds after which an event counts no more."""
    stream: str = EVENTS
    """Which events are folded: `events` or `co_visits`."""

    @property
    @abc.abstractmethod
    def needs_facts(self) -> bool:
        """Whether it remembers what the catalogue says of an event's item."""

    def empty(self) -> State:
        """Return the state of no events."""
        return empty_state(self.columns)

    def add(self, state: State, events: Events) -> State:
        """Return the state of these events, too."""
        return self.merge(state, self.combine(self.rows_of(events.take(np.isin(events.code, self.codes)))))

    def merge(self, a: State, b: State) -> State:
        """Return the state of the events of both, which must be different events."""
        return self.combine(concat_states([a, b]))

    @abc.abstractmethod
    def rows_of(self, events: Events) -> State:
        """Return a row per event (or per event and key), not yet combined."""

    @abc.abstractmethod
    def combine(self, rows: State) -> State:
        """Combine rows that belong together and drop what no later moment can see; sorted by entity."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts(Memory):
    """Numbers of events per kind, key and time bucket."""

    columns: ClassVar[tuple[str, ...]] = ("key", "code", "time", "count")

    bucket_ms: int
    """Width of a bucket; `time` is where it begins. A window of time counts the buckets that begin in it."""
    key: str | None = None
    """Count per `item_id`, `category` prefix or `brand` of the item; None: all together."""

    def __post_init__(self) -> None:
        if self.bucket_ms <= 0 or self.keep_ms % self.bucket_ms:
            raise ValueError(f"bucket_ms: expected a divisor of keep_ms = {self.keep_ms}, got {self.bucket_ms}")

    @property
    def needs_facts(self) -> bool:
        """Whether it counts by category or brand."""
        return self.key not in (None, ITEM_ID)

    def rows_of(self, events: Events) -> State:
        """Return a row per event and key."""
        begin = events.time // self.bucket_ms * self.bucket_ms
        rows = {ENTITY: events.entity, "code": events.code.astype(np.int64), "time": begin}
        if self.key is None:
            keys = np.zeros(len(events), np.int64)
        else:
            column = events.key_column(self.key)
            rows = take_rows(rows, np.repeat(np.arange(len(events)), np.diff(column.offsets)))
            keys = column.hashes.view(np.int64)
        return {**rows, "key": keys, "count": np.ones_like(keys)}

    def combine(self, rows: State) -> State:
        """Add up equal keys, kinds and buckets; what has been taken back (count -1) leaves no row."""
        # buckets have small numbers, their times have not: so all of them sort by one key
        buckets = {**rows, "time": rows["time"] // self.bucket_ms}
        sums = sum_rows(buckets, (ENTITY, "key", "code", "time"), "count")
        sums = {**sums, "time": sums["time"] * self.bucket_ms}
        counted = sums["count"] != 0
        return drop_old(sums if counted.all() else take_rows(sums, counted), self.keep_ms)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newest(Memory):
    """The newest distinct items per event kind, with their prices."""

    columns: ClassVar[tuple[str, ...]] = ("code", "time", "item", "price")

    length: int
    """Items per event kind; of equal times, the greater hashes are newer."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length: expected at least 1 item, got {self.length}")

    @property
    def needs_facts(self) -> bool:
        """True: it remembers prices."""
        return True

    def rows_of(self, events: Events) -> State:
        """Return a row per event."""
        prices = events.prices()
        steps = np.where(np.isfinite(prices), np.rint(np.nan_to_num(prices) * PRICE_STEPS), NO_PRICE)
        values: tuple[npt.NDArray[Any], ...] = (events.entity, events.code, events.time, events.item, steps)
        return {name: column.astype(np.int64) for name, column in zip((ENTITY, *self.columns), values, strict=True)}

    def combine(self, rows: State) -> State:
        """Keep each item's newest event, then the newest items."""
        if not len(rows[ENTITY]):
            return rows
        by_item = take_rows(rows, sorted_order([rows[name] for name in (ENTITY, "code", "item", "time", "price")]))
        following = run_starts(by_item[ENTITY], by_item["code"], by_item["item"])[1:]
        distinct = take_rows(by_item, np.append(following, len(by_item[ENTITY])) - 1)
        order = sorted_order([distinct[name] for name in (ENTITY, "code", "time", "item")])
        return drop_old(self._last(take_rows(distinct, order)), self.keep_ms)

    def _last(self, rows: State) -> State:
        starts = run_starts(rows[ENTITY], rows["code"])
        sizes: IntArray = np.diff(starts, append=len(rows[ENTITY]))
        left_out = np.maximum(sizes - self.length, 0)
        return take_rows(rows, concat_ranges(starts + left_out, sizes - left_out))
