"""A user's history, folded on with new events: for every item of every page the strongest event, as `pages` have it.

An event with a request id belongs to that page, and only a stronger one, or an equal one from before, takes its place.
Events without a request id form bursts, which a late event may extend, join or cut anew: their entries are made again
from the recent events, which hold every burst whole that an event may still reach.

Entries lie by time; those of one millisecond as training sees them: by page, then kind (a dislike last), then place on
the page.
Legend: `H` entries.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.bursts import burst_hashes, burst_ids, burst_numbers, burst_parts
from features.online.config import OnlineConfig
from features.online.recent import NO_PAGE, NO_POSITION, PAST, Mask, Recent
from features.schemas import DISLIKE, EVENT_CODE, HISTORY_CODES
from features.states import sorted_order
from features.store.base import Histories
from kernels.hashing import hash_strings
from kernels.jagged import IntArray, offsets_from_lengths, row_numbers, run_starts
from kernels.ranks import string_ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entries:
    """`H` history entries of users 0, 1, ...; `page` is a hash as int64."""

    entity: IntArray
    time: IntArray
    page: IntArray
    code: IntArray
    ids: pa.StringArray

    def __len__(self) -> int:
        return len(self.entity)

    def take(self, rows: IntArray) -> _Entries:
        arrays = {name: getattr(self, name)[rows] for name in ("entity", "time", "page", "code")}
        return _Entries(**arrays, ids=self.ids.take(pa.array(rows)))

    def with_entries(self, other: _Entries) -> _Entries:
        names = ("entity", "time", "page", "code")
        arrays = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return _Entries(**arrays, ids=pa.concat_arrays([self.ids, other.ids]))


def fold_histories(held: Histories, recent: Recent, config: OnlineConfig) -> Histories:
    """Return the histories with the new events.

    Args:
        held: Of users 0, 1, ..., without the new events.
        recent: Their recent events with the new ones, marked `latest`, in order.
        config: Bursts and length.
    """
    users = hash_strings(pa.array(held.user_ids, pa.string()))
    pages = paged(recent, users, config)
    before = paged(recent.take(~recent.latest), users, config)
    again = (recent.page == NO_PAGE) | (recent.latest & (recent.page != PAST))
    named = np.flatnonzero(np.isin(recent.code, HISTORY_CODES) & again)
    found = _Entries(
        entity=recent.entity[named],
        time=recent.time[named],
        page=pages.page[named],
        code=recent.code[named].astype(np.int64),
        ids=recent.ids.take(pa.array(named)),
    )
    kept, reached = _split_held(held, found.page, before.bursts)
    changed = _strongest(reached.with_entries(found))
    entries = kept.with_entries(changed)
    order = _ordered(entries, len(kept), recent, pages)
    counts = np.bincount(entries.entity, minlength=len(users))
    from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(entries))
    newest = entries.take(order[from_end <= config.history_length])
    return Histories(
        user_ids=held.user_ids,
        offsets=offsets_from_lengths(np.minimum(counts, config.history_length)),
        item_ids=newest.ids,
        events=newest.code.astype(np.int8),
        times=newest.time,
        pages=newest.page.view(np.uint64),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paged:
    """The pages of recent events.

    Attributes:
        page: Hash of each row's page, int64.
        rank: Of pages that begin together, the one of the lower rank is older (uint64).
        bursts: Hashes of the pages that were made from bursts, distinct.
    """

    page: IntArray
    rank: npt.NDArray[np.uint64]
    bursts: IntArray


def paged(recent: Recent, users: npt.NDArray[np.uint64], config: OnlineConfig) -> Paged:
    """Find the pages of recent events.

    Args:
        recent: In order.
        users: Hash of each user's id.
        config: Gap and cap of bursts.
    """
    page, rank = recent.page.copy(), recent.page.view(np.uint64).copy()
    rows = np.flatnonzero(recent.page == NO_PAGE)
    if not len(rows):
        return Paged(page=page, rank=rank, bursts=rows)
    item = string_ranks(recent.ids.take(pa.array(rows)))
    columns = (recent.entity[rows], recent.time[rows], recent.position[rows], recent.code[rows].astype(np.int64), item)
    order = sorted_order(columns)
    rows, item = rows[order], item[order]
    burst = burst_numbers(recent.entity[rows], recent.time[rows], config.gap_ms)
    part = burst_parts(burst, item, config.cap)
    _, first, number = np.unique(burst * (len(rows) + 1) + part, return_index=True, return_inverse=True)
    begin = recent.time[rows[run_starts(burst)]][burst[first]]
    names = burst_hashes(users[recent.entity[rows[first]]], begin, part[first])
    hashes = hash_strings(burst_ids(names)).view(np.int64)
    page[rows], rank[rows] = hashes[number], names[number]
    return Paged(page=page, rank=rank, bursts=hashes)


def _split_held(held: Histories, pages: IntArray, bursts: IntArray) -> tuple[_Entries, _Entries]:
    """Return the held entries that stay as they are, and those of these pages, without bursts to be made again."""
    entries = _Entries(
        entity=row_numbers(np.diff(held.offsets)),
        time=held.times,
        page=held.pages.view(np.int64),
        code=held.events.astype(np.int64),
        ids=held.item_ids,
    )
    in_burst = _is_in(entries.page, bursts)
    reached = _is_in(entries.page, pages) & ~in_burst
    return entries.take(np.flatnonzero(~reached & ~in_burst)), entries.take(np.flatnonzero(reached))


def _strongest(entries: _Entries) -> _Entries:
    """Return the strongest entry of each item of each page; of equal ones the earliest."""
    item = hash_strings(entries.ids).view(np.int64)
    order = np.lexsort((entries.time, -entries.code, item, entries.page, entries.entity))
    return entries.take(order[run_starts(entries.entity[order], entries.page[order], item[order])])


def _ordered(entries: _Entries, kept: int, recent: Recent, pages: Paged) -> IntArray:
    """Return the order of entries by user and time; the first `kept` of them lie in order."""
    order = sorted_order([entries.entity, entries.time])
    starts = run_starts(entries.entity[order], entries.time[order])
    sizes = np.diff(starts, append=len(order))
    run = row_numbers(sizes)
    moved = np.bincount(run, weights=order >= kept, minlength=len(starts)) > 0
    tied = np.flatnonzero(((sizes > 1) & moved)[run])
    if len(tied):
        order[tied] = order[tied][_tie_order(run[tied], entries.take(order[tied]), recent, pages)]
    return order


def _tie_order(run: IntArray, entries: _Entries, recent: Recent, pages: Paged) -> IntArray:
    """Return the order of entries within runs of one user and one millisecond."""
    rows = np.flatnonzero(_is_in(pages.page, entries.page))
    item = hash_strings(entries.ids).view(np.int64)
    of_page, page = [recent.entity[rows], pages.page[rows]], [entries.entity, entries.page]
    of_item, wanted = [*of_page, recent.item[rows]], [*page, item]
    begin = _least(of_page, recent.time[rows], page, entries.time)
    rank = _least(of_page, np.arange(len(rows)), page, np.full(len(entries), -1))
    first = _least(of_item, recent.time[rows], wanted, entries.time)
    position = _least(of_item, recent.position[rows], wanted, np.full(len(entries), NO_POSITION))
    page_rank = np.where(rank >= 0, pages.rank[rows[rank]], entries.page.view(np.uint64))
    weakness = -np.where(entries.code == EVENT_CODE[DISLIKE], -1, entries.code)
    return np.lexsort((string_ranks(entries.ids), first, position, weakness, page_rank, begin, run))


def _least(keys: list[IntArray], values: IntArray, wanted: list[IntArray], default: IntArray) -> IntArray:
    """Return the least value of the rows that have each wanted key, the default where none has."""
    both = [np.concatenate(pair) for pair in zip(keys, wanted, strict=True)]
    order = np.lexsort(tuple(both))
    starts = run_starts(*(column[order] for column in reversed(both)))
    group = np.empty(len(order), np.int64)
    group[order] = row_numbers(np.diff(starts, append=len(order)))
    least = np.full(len(starts), np.iinfo(np.int64).max)
    np.minimum.at(least, group[: len(values)], values)
    found = least[group[len(values) :]]
    return np.where(found < np.iinfo(np.int64).max, found, default)


def _is_in(values: IntArray, wanted: IntArray) -> Mask:
    return np.asarray(pc.is_in(pa.array(values), value_set=pa.array(wanted)))
