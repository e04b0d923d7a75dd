"""Sequences -> histories as the online store holds them: each user's newest events of all splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import schemas
from features.store.base import Histories
from kernels.hashing import hash_strings
from kernels.jagged import concat_ranges, offsets_from_lengths, row_numbers

IntArray = npt.NDArray[np.int64]
SEQUENCE_COLUMNS = ["user_id", "split", "page_ids", "page_times", "page_lengths", "items", "events", "times"]
"""What of `sequences` is read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryEntries:
    """History entries in the order of their users and times, and where their items stand in the flat column."""

    users: pa.StringArray
    offsets: IntArray
    places: IntArray
    events: npt.NDArray[np.int8]
    times: IntArray
    pages: npt.NDArray[np.uint64]
    impressions: int
    overflow: int


def history_entries(table: pa.Table, length: int) -> HistoryEntries:
    """Return the history entries in rows of `sequences`.

    Args:
        table: `SEQUENCE_COLUMNS`, all rows of each user.
        length: Newest entries kept per user.
    """
    users = table.column("user_id").combine_chunks().dictionary_encode()
    pages_of_row = np.asarray(pc.list_value_length(table.column("page_times")))
    page_of_entry = row_numbers(_flat(table, "page_lengths"))
    user = np.repeat(np.asarray(users.indices, dtype=np.int64), pages_of_row)[page_of_entry]
    splits = pc.index_in(table.column("split"), value_set=pa.array(schemas.SPLITS))
    split = np.repeat(np.asarray(splits), pages_of_row)[page_of_entry]
    page_time = _flat(table, "page_times")[page_of_entry]
    events = pc.list_flatten(table.column("events")).to_numpy()
    times = np.maximum(_flat(table, "times"), page_time)  # nobody reacts to a page before it was shown

    kept = np.flatnonzero(np.isin(events, schemas.HISTORY_CODES))
    # ties keep the order of pages and, within a page, of the response: what training and evaluation see
    order = kept[np.lexsort((kept, split[kept], page_time[kept], times[kept], user[kept]))]
    offsets = offsets_from_lengths(np.bincount(user[order], minlength=len(users.dictionary)))
    newest = np.arange(len(order)) >= offsets[1:][user[order]] - length
    order = order[newest]
    counts = np.bincount(user[order], minlength=len(users.dictionary))
    active = np.flatnonzero(counts)
    return HistoryEntries(
        users=users.dictionary.take(pa.array(active)),
        offsets=offsets_from_lengths(counts[active]),
        places=order,
        events=events[order],
        times=times[order],
        pages=page_hashes(pc.list_flatten(table.column("page_ids")))[page_of_entry[order]],
        impressions=len(events) - len(kept),
        overflow=len(kept) - len(order),
    )


def histories_of(table: pa.Table, entries: HistoryEntries, users: int) -> Iterator[Histories]:
    """Yield histories of `users` users at a time, of those who have one: Arrow strings hold 2 GB at most."""
    flat_items = pc.list_flatten(table.column("items"))
    for start in range(0, len(entries.users), users):
        names = entries.users.slice(start, users).to_pylist()
        yield histories_at(flat_items, entries, names, np.arange(start, start + len(names)))


def histories_at(
    flat_items: pa.ChunkedArray, entries: HistoryEntries, user_ids: list[str], rows: IntArray
) -> Histories:
    """Return the histories of users.

    Args:
        flat_items: The flattened column `items` of `sequences`.
        entries: Of the same rows.
        user_ids: `B` ids.
        rows: Where each user stands in `entries.users`; -1 for a user without history.
    """
    starts = entries.offsets[rows]
    lengths = np.where(rows >= 0, entries.offsets[rows + 1] - starts, 0)
    index = concat_ranges(starts, lengths)
    items = flat_items.take(pa.array(entries.places[index])).combine_chunks()
    return Histories(
        user_ids=user_ids,
        offsets=offsets_from_lengths(lengths),
        item_ids=items if isinstance(items, pa.Array) else pa.concat_arrays([pa.array([], pa.string()), *items.chunks]),
        events=entries.events[index],
        times=entries.times[index],
        pages=entries.pages[index],
    )


def page_hashes(request_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return the hash of each request id that histories name a page by; never 0, which means no page."""
    return np.maximum(hash_strings(request_ids), 1)


def _flat(table: pa.Table, column: str) -> IntArray:
    return np.asarray(pc.list_flatten(table.column(column)).cast(pa.int64()))
