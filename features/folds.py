"""Folds: from a memory's state to the value of a feature at a moment.

A fold is `empty`, `add`, `merge` (its memory's) and `finish`. `finish` is given the moments at which the values hold;
all events in the state lie strictly before them.
Legend: `E` entities, `R` rows of a state.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from features.columns import IdColumn
from features.events import Events
from features.memories import NO_PRICE, PRICE_STEPS, Counts, Memory, Newest
from features.states import ENTITY, State, sorted_order, take_rows
from kernels.jagged import IntArray, concat_ranges, offsets_from_lengths, run_starts

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NUMBER, IDS, WEIGHTS = "number", "ids", "weights"
Numbers = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fold(abc.ABC):
    """The common part of folds."""

    kind: ClassVar[str]
    """What `finish` returns: `number`, `ids` or `weights`."""

    memory: Memory
    """What is remembered; folds with equal memories share a state."""

    def empty(self) -> State:
        """Return the state of no events."""
        return self.memory.empty()

    def add(self, state: State, events: Events) -> State:
        """Return the state of these events, too."""
        return self.memory.add(state, events)

    def merge(self, a: State, b: State) -> State:
        """Return the state of the events of both, which must be different events."""
        return self.memory.merge(a, b)

    def steps_ms(self) -> tuple[int, ...]:
        """Return the ages at which an event changes the value, beside age 0.

        Without new events, a value stays as it is between these steps (to the day).
        """
        return (self.memory.keep_ms,)

    @abc.abstractmethod
    def finish(self, state: State, entities: int, now_E: IntArray) -> Numbers | IdColumn:
        """Return the values of entities 0, 1, ...

        Args:
            state: Of any of these entities.
            entities: Their number `E`.
            now_E: The moment of each, milliseconds.

        Returns:
            float32 `[E]`, nan where there is none; or a row of ids per entity.
        """

    def _rows(self, state: State, now_E: IntArray, codes: tuple[int, ...], window_ms: int | None = None) -> State:
        """Return the rows of these kinds that still count."""
        since = now_E[state[ENTITY]] - (self.memory.keep_ms if window_ms is None else window_ms)
        kept = state["time"] >= since
        if codes != self.memory.codes:
            kept &= np.isin(state["code"], codes)
        return take_rows(state, kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountOf(Fold):
    """Number of events of one kind within the memory's time."""

    kind: ClassVar[str] = NUMBER
    memory: Counts
    code: int
    """Of the event kind."""

    def finish(self, state: State, entities: int, now_E: IntArray) -> Numbers:
        """Add up the buckets."""
        return _total(self._rows(state, now_E, (self.code,)), entities).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate(Fold):
    """Smoothed share of events that became better ones: `(hits + strength * prior) / (max(shown, hits) + strength)`.

    Where logs hold no impressions, `shown` is less than `hits`.
    """

    kind: ClassVar[str] = NUMBER
    memory: Counts
    hit: int
    """Code of the event kind that counts as a hit."""
    shown: int
    """Code of the event kind that gave the chance."""
    prior: float
    """The rate of an item that nobody knows."""
    strength: float
    """How many events the prior is worth."""

    def finish(self, state: State, entities: int, now_E: IntArray) -> Numbers:
        """Divide the counts."""
        hits, shown = (_total(self._rows(state, now_E, (code,)), entities) for code in (self.hit, self.shown))
        rate = (hits + self.strength * self.prior) / (np.maximum(shown, hits) + self.strength)
        return rate.astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trend(Fold):
    """How much more happens lately than before: `log((recent per day + s) / (all per day + s))`."""

    kind: ClassVar[str] = NUMBER
    memory: Counts
    recent_ms: int
    """The recent part of the memory's time."""
    smoothing: float
    """`s`, events per day: what few events are worth."""

    def steps_ms(self) -> tuple[int, ...]:
        """Return when an event leaves the recent part, and when the whole."""
        return (self.recent_ms, self.memory.keep_ms)

    def finish(self, state: State, entities: int, now_E: IntArray) -> Numbers:
        """Compare the rates."""
        codes = self.memory.codes
        recent = _total(self._rows(state, now_E, codes, self.recent_ms), entities) / (self.recent_ms / DAY_MS)
        longer = _total(self._rows(state, now_E, codes), entities) / (self.memory.keep_ms / DAY_MS)
        return np.log((recent + self.smoothing) / (longer + self.smoothing)).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affinity(Fold):
    """The keys an entity has most to do with, and how much: `w(key) / (1 + sum of all w)`.

    `w(key)` adds up `strengths[kind] * 2 ** -(age / half_life)` over the key's events. Shares grow with the evidence:
    one event now of strength 1 gives 1/2, not 1.
    """

    kind: ClassVar[str] = WEIGHTS
    memory: Counts
    half_life_ms: float
    """Age at which an event counts half; infinite: an event counts the same until it is forgotten."""
    strengths: Mapping[int, float]
    """Code of event kind -> what one event is worth."""
    top: int
    """Keys kept, heaviest first; of equal weights, smaller hashes first."""

    def steps_ms(self) -> tuple[int, ...]:
        """Return every day, if weights decay."""
        return super().steps_ms() if math.isinf(self.half_life_ms) else _every_day(self.memory.keep_ms)

    def finish(self, state: State, entities: int, now_E: IntArray) -> IdColumn:
        """Decay, add up, divide, choose."""
        rows = self._rows(state, now_E, self.memory.codes)
        if not len(rows[ENTITY]):
            return IdColumn(hashes=_NO_HASHES, offsets=np.zeros(entities + 1, np.int64), weights=_NO_WEIGHTS)
        strength = np.array([self.strengths.get(code, 0.0) for code in range(max(self.memory.codes) + 1)])
        age = np.maximum(now_E[rows[ENTITY]] - rows["time"], 0)
        amounts = rows["count"] * strength[rows["code"]] * np.exp2(-age / self.half_life_ms)
        starts = run_starts(rows[ENTITY], rows["key"])
        group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(age)))
        weights = np.bincount(group, weights=amounts)
        entity, key = rows[ENTITY][starts], rows["key"][starts]
        shares = weights / (1 + np.bincount(entity, weights=weights, minlength=entities)[entity])
        order = np.lexsort((key.view(np.uint64), -shares, entity))
        counts = np.bincount(entity, minlength=entities)
        best = order[concat_ranges(offsets_from_lengths(counts)[:-1], np.minimum(counts, self.top))]
        return IdColumn(
            hashes=key[best].view(np.uint64),
            offsets=offsets_from_lengths(np.minimum(counts, self.top)),
            weights=shares[best].astype(np.float32),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LastItems(Fold):
    """The newest distinct items with an event of one kind, newest first."""

    kind: ClassVar[str] = IDS
    memory: Newest
    code: int
    """Of the event kind."""

    def finish(self, state: State, entities: int, now_E: IntArray) -> IdColumn:
        """Turn the rows of each entity around."""
        rows = self._rows(state, now_E, (self.code,))
        newest_first = take_rows(rows, sorted_order([rows[ENTITY], -np.arange(len(rows[ENTITY]))]))
        counts = np.bincount(rows[ENTITY], minlength=entities)
        return IdColumn(hashes=newest_first["item"].view(np.uint64), offsets=offsets_from_lengths(counts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoursSince(Fold):
    """Hours since the last event of some kinds; as long as is remembered, where there was none."""

    kind: ClassVar[str] = NUMBER
    memory: Newest
    codes: tuple[int, ...]
    """Of the event kinds."""

    def steps_ms(self) -> tuple[int, ...]:
        """Return every day: time passes."""
        return _every_day(self.memory.keep_ms)

    def finish(self, state: State, entities: int, now_E: IntArray) -> Numbers:
        """Subtract the newest time."""
        rows = self._rows(state, now_E, self.codes)
        last = now_E - self.memory.keep_ms
        np.maximum.at(last, rows[ENTITY], rows["time"])
        return (np.maximum(now_E - last, 0) / HOUR_MS).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MedianPrice(Fold):
    """Median price of the newest items with an event of some kinds (an item counts once per kind)."""

    kind: ClassVar[str] = NUMBER
    memory: Newest
    codes: tuple[int, ...]
    """Of the event kinds."""

    def finish(self, state: State, entities: int, now_E: IntArray) -> Numbers:
        """Take the middle of the sorted prices, the mean of the two middle ones where their number is even."""
        rows = self._rows(state, now_E, self.codes)
        rows = take_rows(rows, rows["price"] != NO_PRICE)
        prices = rows["price"][np.lexsort((rows["price"], rows[ENTITY]))] / PRICE_STEPS
        counts = np.bincount(rows[ENTITY], minlength=entities)
        starts = offsets_from_lengths(counts)[:-1]
        medians = np.full(entities, np.nan)
        known = counts > 0
        low, high = (starts + (counts - 1) // 2)[known], (starts + counts // 2)[known]
        medians[known] = (prices[low] + prices[high]) / 2
        return medians.astype(np.float32)


_NO_HASHES, _NO_WEIGHTS = np.zeros(0, np.uint64), np.zeros(0, np.float32)


def _every_day(keep_ms: int) -> tuple[int, ...]:
    return tuple(range(DAY_MS, keep_ms + DAY_MS, DAY_MS))


def _total(rows: State, entities: int) -> npt.NDArray[np.float64]:
    return np.bincount(rows[ENTITY], weights=rows["count"], minlength=entities).astype(np.float64)
