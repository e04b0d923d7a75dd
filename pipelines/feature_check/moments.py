"""What the service could know at the moment of each page, and what it knew.

Every page is one of these:

`current`: its state had all events that batch knows.
`behind`: batch knows an earlier event that the state lacks, as it is newer than the state's newest event, or the stream
    took it up later than what the state holds. It is `late`, too, where the oldest such event happened longer before
    the page than the stream may lag.
`missing`: there was no state, though the user had events before that.
`ahead`: the state's newest event is one that batch does not know, or that is not before the page.

Legend: `R` pages, `E` events, `A` arrivals on the stream.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.events import Events
from features.stream.records import position_of
from pipelines.batch.arrow import milliseconds
from pipelines.feature_check import findings

CURRENT, BEHIND, LATE, MISSING, AHEAD = "current", "behind", "late", "missing", "ahead"
BEHIND_SPAN, AGE_SPAN, LAG_SPAN = "behind_s", "state_age_s", "position_lag_s"
"""Of pages that are behind: time since the oldest event that the state lacks; time since the newest event it has; how
much later than what it holds the user's newest event was accepted."""
NEVER = np.iinfo(np.int64).max
_MILLISECOND = position_of(1, 0)
_TIMES = 1 << 42
"""Milliseconds up to the year 2109: numbers of users are multiples of it, so that one number sorts by user and time."""

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Events as the stream took them up: `entity`, `time` in milliseconds and `position`, each `[A]`."""

    entity: Ints
    time: Ints
    position: Ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Pages, all times in milliseconds.

    Attributes:
        time: `R` moments of the pages.
        known: Which have a state.
        event_time: Of the newest event in the state.
        position: Of the stream, up to which its events are in the state.
        lacks: Time of the oldest event before the page that the state lacks; `NEVER` for none.
        newest: Time of the newest event before the page, or of the oldest moment that counts.
        accepted: When the stream accepted the last of the user's events before the page, 0 for none.
    """

    time: Ints
    known: Mask
    event_time: Ints
    position: Ints
    lacks: Ints
    newest: Ints
    accepted: Ints

    @classmethod
    def of(cls, pages: pa.Table, entity: Ints, events: Events, arrivals: Arrivals, reach_ms: int) -> Self:
        """Find out what each state lacks.

        Args:
            pages: Columns `timestamp`, `state`, `position`, `event_time`; `R` rows.
            entity: Number of the user of each page.
            events: Of these users, as batch knows them.
            arrivals: Of these users, as the stream took them up.
            reach_ms: Events older than this count in no feature.
        """
        time, known = milliseconds(pages.column("timestamp")), np.asarray(pages.column("state").is_valid())
        oldest = time - reach_ms - 1
        given = np.asarray(pages.column("event_time").cast(pa.int64()).fill_null(0), dtype=np.int64)
        event_time = np.where(known, np.maximum(given, oldest), oldest)
        position = np.asarray(pages.column("position").fill_null(0), dtype=np.int64)
        happened = np.sort(events.entity * _TIMES + events.time)
        base = entity * _TIMES
        newer = _at(happened, np.searchsorted(happened, base + event_time, side="right"), base)
        unread = np.where(known, _oldest_behind(arrivals, base, position), NEVER)
        lacks = np.minimum(np.where(newer < time, newer, NEVER), np.where(unread < time, unread, NEVER))
        last = _at(happened, np.searchsorted(happened, base + time) - 1, base)
        return cls(
            time=time,
            known=known,
            event_time=event_time,
            position=position,
            lacks=lacks,
            newest=np.where(last == NEVER, oldest, np.maximum(last, oldest)),
            accepted=_last_accepted(arrivals, base, time),
        )

    def kinds(self, lag_ms: int) -> dict[str, Mask]:
        """Return which pages are of each kind; `lag_ms` is the lag that the stream may have."""
        lacking = self.lacks != NEVER
        long_ago = np.zeros(len(self.time), bool)
        long_ago[lacking] = self.time[lacking] - self.lacks[lacking] > lag_ms
        missing = ~self.known & long_ago
        behind = lacking & ~missing
        ahead = self.known & ~lacking & ((self.event_time >= self.time) | (self.event_time > self.newest))
        return {
            CURRENT: ~(missing | behind | ahead),
            BEHIND: behind,
            LATE: behind & long_ago,
            MISSING: missing,
            AHEAD: ahead,
        }

    def spans(self, behind: Mask) -> dict[str, Ints]:
        """Return histograms of how far behind these pages are."""
        accepted = self.position // _MILLISECOND
        measured = behind & (self.position > 0) & (self.accepted > accepted)
        return {
            BEHIND_SPAN: findings.spans((self.time - np.minimum(self.lacks, self.time))[behind]),
            AGE_SPAN: findings.spans((self.time - self.event_time)[behind & self.known]),
            LAG_SPAN: findings.spans((self.accepted - accepted)[measured]),
        }


def _at(keys: Ints, places: Ints, base: Ints) -> Ints:
    """Return the times of the keys at these places, `NEVER` where the place is not the user's."""
    held = np.append(keys, NEVER)[np.where((places >= 0) & (places < len(keys)), places, len(keys))]
    return np.where((held >= base) & (held < base + _TIMES), held - base, NEVER)


def _oldest_behind(arrivals: Arrivals, base: Ints, position: Ints) -> Ints:
    """Return the time of each user's oldest event behind a position, `NEVER` where there is none."""
    order = np.lexsort((arrivals.position, arrivals.entity))
    keys = (arrivals.entity * _TIMES + arrivals.time)[order]
    # a later user's keys are all larger: the smallest from a place on is the user's own, if any is
    smallest = np.minimum.accumulate(keys[::-1])[::-1]
    entity = base // _TIMES
    both = np.lexsort(
        (
            np.repeat([0, 1], [len(keys), len(base)]),
            np.append(arrivals.position[order], position),
            np.append(arrivals.entity[order], entity),
        )
    )
    places = np.empty(len(both), np.int64)
    places[both] = np.cumsum(both < len(keys))
    return _at(smallest, places[len(keys) :], base)


def _last_accepted(arrivals: Arrivals, base: Ints, time: Ints) -> Ints:
    """Return when the stream accepted the last of each user's events from before a moment, 0 where there is none."""
    keys = arrivals.entity * _TIMES + arrivals.time
    order = np.argsort(keys, kind="stable")
    accepted = arrivals.entity * _TIMES + arrivals.position // _MILLISECOND
    largest = np.maximum.accumulate(accepted[order])
    found = _at(largest, np.searchsorted(keys[order], base + time) - 1, base)
    return np.where(found == NEVER, 0, found)
