"""Which pages new events change: pages of their requests, and the bursts they belong to, merge or prolong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.bursts import burst_numbers
from features.schemas import PAGES
from pipelines.batch.arrow import Ints, Mask, milliseconds, string_ranks
from pipelines.batch.config import PagesConfig
from pipelines.batch.pages import pages_from_events
from pipelines.batch.transforms import SORT_KEYS

MINUTE_MS = 60_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageChanges:
    """What becomes of the pages of some users.

    Attributes:
        added: Pages as they are now.
        removed: Keys of those pages as they were before.
        cut: Changed bursts that may have begun before the events that were looked at.
    """

    added: pa.Table
    removed: pa.Table
    cut: int


def page_changes(
    events: pa.Table, fresh: Mask, served: pa.Table, config: PagesConfig, *, by_day: bool, since_ms: int | None
) -> PageChanges:
    """Build those pages anew that have a new event, or of which it is new that they were served.

    Args:
        events: All clean events of some users since a moment; those of older requests with new events, too.
        fresh: Which of them are new.
        served: Columns `user_id`, `request_id` of pages that are new in the log of served pages.
        config: Gap and cap of bursts.
        by_day: See `pages_from_events`.
        since_ms: The moment; None where there are no events before.
    """
    user, time = _ranks_with(events, served, "user_id"), milliseconds(events.column("timestamp"))
    request = _ranks_with(events, served, "request_id")
    size = events.num_rows
    span = int(request.max(initial=0)) + 1
    key = user * span + request
    asked = request[:size] >= 0
    changed = np.zeros(size, dtype=bool)
    changed[asked] = np.isin(key[:size][asked], np.append(key[:size][asked & fresh], key[size:]))
    free = np.flatnonzero(~asked)
    free = free[np.lexsort((time[free], user[free]))]
    burst = burst_numbers(user[free], time[free], None if by_day else int(config.gap_minutes * MINUTE_MS))
    in_burst = np.isin(burst, burst[fresh[free]])
    changed[free] = in_burst
    cut = 0 if by_day or since_ms is None else _near(time[free][in_burst], burst[in_burst], since_ms, config)
    now, before = (_pages(events, rows, config, by_day=by_day) for rows in (changed, changed & ~fresh))
    return PageChanges(added=now, removed=before.select(SORT_KEYS["pages"]), cut=cut)


def first_touched(fresh: pa.Table, served: pa.Table, pages: pa.Table, config: PagesConfig, *, by_day: bool) -> int:
    """Return a moment before which no page changes, unless a changed burst reaches over it.

    Args:
        fresh: Columns `request_id` and `timestamp` of new events.
        served: The same of pages that are new in the log of served pages.
        pages: The same of the pages that stand.
        config: The gap of bursts.
        by_day: See `pages_from_events`.
    """
    requests = pa.chunked_array([*fresh.column("request_id").chunks, *served.column("request_id").chunks], pa.string())
    again = pages.filter(pc.is_in(pages.column("request_id"), value_set=pc.unique(requests.drop_null())))
    moments = [milliseconds(table.column("timestamp")) for table in (again, served)]
    gap = 0 if by_day else int(config.gap_minutes * MINUTE_MS)
    moments.append(milliseconds(fresh.column("timestamp")) - gap)
    return int(np.concatenate(moments).min())


def _pages(events: pa.Table, rows: Mask, config: PagesConfig, *, by_day: bool) -> pa.Table:
    if not rows.any():
        return PAGES.empty_table()
    return pages_from_events(events.filter(pa.array(rows)), config, by_day=by_day)


def _ranks_with(events: pa.Table, served: pa.Table, column: str) -> Ints:
    return string_ranks(pa.chunked_array([*events.column(column).chunks, *served.column(column).chunks], pa.string()))


def _near(time: Ints, burst: Ints, since_ms: int, config: PagesConfig) -> int:
    """Return how many bursts begin less than a gap behind the moment."""
    near = time <= since_ms + config.gap_minutes * MINUTE_MS
    return len(np.unique(burst[near]))
