"""Events of whole users -> pages: one row per shown page, the strongest event of each of its items.

Events with a `request_id` form the page of that id; of others, every part of a burst is a page (`features.bursts`).

Legend: `R` rows (events), `G` groups (one item on one page), `P` pages.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.bursts import burst_hashes, burst_ids, burst_numbers, burst_parts
from features.schemas import EVENT_KINDS, PAGES
from kernels.hashing import hash_strings
from kernels.jagged import run_starts
from pipelines.batch.arrow import Ints, Mask, milliseconds, string_ranks
from pipelines.batch.config import PagesConfig

NONE = np.iinfo(np.int64).max
"""Stands for an absent position or row, so that a minimum passes over it."""


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Events in the order user, time, position, strength, item: the columns that numpy works on."""

    table: pa.Table
    user_R: Ints
    item_R: Ints
    code_R: Ints
    time_R: Ints
    position_R: Ints


def pages_from_events(events: pa.Table, config: PagesConfig, *, by_day: bool) -> pa.Table:
    """Build the pages of some users.

    Args:
        events: All clean events of these users, in any order.
        config: Gap and cap of bursts.
        by_day: Bursts are UTC days (data with only dates or only an order).

    Returns:
        Rows of the `pages` table, sorted by user, time and request id. An item stands at its smallest `position`; items
        without one follow by the time of their first event. Of several strongest events of an item the earliest counts;
        a dislike outranks all others. The page's time is its earliest event's.
    """
    rows = _sorted_rows(events)
    page_R, ids_P = _page_of_rows(rows, config, by_day=by_day)
    order = np.argsort(page_R, kind="stable")
    page_starts = run_starts(page_R[order])
    first_P = order[page_starts]
    group_order, group_starts = _item_groups(page_R, rows.item_R)
    columns = _item_columns(rows, page_R, group_order, group_starts)
    for name in ("policy", "context"):
        column = rows.table.column(name).combine_chunks()
        columns[name] = _take(column, _first_where(np.asarray(column.is_valid()), order, page_starts))
    columns["request_id"] = ids_P
    columns["user_id"] = rows.table.column("user_id").take(pa.array(first_P))
    columns["timestamp"] = rows.table.column("timestamp").take(pa.array(first_P))
    absent = {field.name: pa.nulls(len(first_P), field.type) for field in PAGES if field.name not in columns}
    pages = pa.table({field.name: {**columns, **absent}[field.name] for field in PAGES}, schema=PAGES)
    user_P, time_P = rows.user_R[first_P], rows.time_R[first_P]
    return pages.take(pa.array(np.lexsort((string_ranks(ids_P), time_P, user_P)))).combine_chunks()


def _sorted_rows(events: pa.Table) -> _Rows:
    codes = pc.index_in(events.column("event"), pa.array(EVENT_KINDS))
    position = np.asarray(pc.fill_null(events.column("position").cast(pa.int64()), NONE))
    user, item = string_ranks(events.column("user_id")), string_ranks(events.column("item_id"))
    code, time = np.asarray(codes, dtype=np.int64), milliseconds(events.column("timestamp"))
    # Event ids are unique, so their hash makes the order total without sorting long strings.
    tie = hash_strings(events.column("event_id"))
    order = np.lexsort((tie, item, code, position, time, user))
    table = events.take(pa.array(order)).combine_chunks()
    return _Rows(table, user[order], item[order], code[order], time[order], position[order])


def _page_of_rows(rows: _Rows, config: PagesConfig, *, by_day: bool) -> tuple[Ints, pa.Array]:
    """Return the page number of each row, and the request id of each page."""
    request = string_ranks(rows.table.column("request_id"))
    bursty = request < 0
    page_R = np.empty(len(request), dtype=np.int64)
    asked = np.flatnonzero(~bursty)
    keys = rows.user_R[asked] * (request.max(initial=0) + 1) + request[asked]
    _, first, page_R[asked] = np.unique(keys, return_index=True, return_inverse=True)
    request_ids = rows.table.column("request_id").take(pa.array(asked[first])).combine_chunks()
    free = np.flatnonzero(bursty)
    burst = burst_numbers(rows.user_R[free], rows.time_R[free], None if by_day else int(config.gap_minutes * 60_000))
    part = burst_parts(burst, rows.item_R[free], config.cap)
    _, first, numbers = np.unique(burst * (len(free) + 1) + part, return_index=True, return_inverse=True)
    page_R[free] = numbers + len(request_ids)
    return page_R, pa.concat_arrays([request_ids, _burst_ids(rows, free, first, burst, part)])


def _burst_ids(rows: _Rows, free: Ints, first: Ints, burst: Ints, part: Ints) -> pa.Array:
    burst_starts = rows.time_R[free[run_starts(burst)]] if len(free) else np.empty(0, np.int64)
    users = hash_strings(rows.table.column("user_id").take(pa.array(free[first])))
    return burst_ids(burst_hashes(users, burst_starts[burst[first]], part[first]))


def _item_groups(page_R: Ints, item_R: Ints) -> tuple[Ints, Ints]:
    """Return rows ordered by page and item (in time order within), and where each such group starts."""
    key = page_R * (item_R.max(initial=0) + 1) + item_R
    order = np.argsort(key, kind="stable")
    return order, run_starts(key[order])


def _item_columns(rows: _Rows, page_R: Ints, order: Ints, starts: Ints) -> dict[str, pa.Array]:
    """Return the list columns of the pages: items in shown order, strongest events, times, values, propensities."""
    code = rows.code_R[order]
    strongest = np.repeat(np.maximum.reduceat(code, starts), np.diff([*starts, len(order)])) if len(starts) else code
    chosen_G = _first_where(rows.code_R == _scatter(strongest, order), order, starts)
    position_G = np.minimum.reduceat(rows.position_R[order], starts) if len(starts) else starts
    first_G = order[starts]
    page_G = page_R[first_G]
    shown = np.lexsort((rows.item_R[first_G], rows.time_R[first_G], position_G, page_G))
    offsets = pa.array(np.append(run_starts(page_G[shown]), len(shown)), pa.int32())
    chosen = pa.array(chosen_G[shown])
    propensity = rows.table.column("propensity").combine_chunks()
    propensity_G = _first_where(np.asarray(propensity.is_valid()), order, starts)[shown]

    def lists(values: pa.Array, *, null_if_empty: bool = False) -> pa.Array:
        mask = _nothing_in(values, offsets) if null_if_empty else None
        return pa.ListArray.from_arrays(offsets, values, mask=None if mask is None else pa.array(mask))

    def taken(name: str) -> pa.Array:
        return rows.table.column(name).combine_chunks().take(chosen)

    return {
        "items": lists(taken("item_id")),
        "events": lists(taken("event")),
        "event_times": lists(taken("timestamp")),
        "values": lists(taken("value"), null_if_empty=True),
        "propensities": lists(_take(propensity, propensity_G), null_if_empty=True),
    }


def _scatter(values: Ints, order: Ints) -> Ints:
    scattered = np.empty_like(values)
    scattered[order] = values
    return scattered


def _first_where(accepted_R: Mask, order: Ints, starts: Ints) -> Ints:
    """Return the first accepted row of each group, `NONE` where there is none."""
    if not len(starts):
        return np.empty(0, dtype=np.int64)
    return np.minimum.reduceat(np.where(accepted_R[order], order, NONE), starts)


def _take(column: pa.Array, rows: Ints) -> pa.Array:
    return column.take(pa.array(rows, mask=rows == NONE))


def _nothing_in(values: pa.Array, offsets: pa.Array) -> Mask:
    valid = np.concatenate([[0], np.cumsum(np.asarray(values.is_valid()))])
    ends = np.asarray(offsets)
    return valid[ends[1:]] == valid[ends[:-1]]
