"""Fill the online store from a workspace's tables: histories from `sequences`, facts from `clean_items`."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import schemas
from features.store.base import Freshness, Histories, ItemFacts, OnlineStore
from features.store.config import StoreConfig
from features.workspace import Workspace
from kernels.jagged import offsets_from_lengths, row_numbers

IntArray = npt.NDArray[np.int64]

USERS_PER_WRITE = 20_000
ITEMS_PER_WRITE = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackfillReport:
    """What a back-fill wrote."""

    users: int
    """Users with a history."""
    entries: int
    """History entries written."""
    impressions: int
    """Sequence entries left out because they are impressions."""
    overflow: int
    """Entries left out because their user has `history_length` newer ones."""
    items: int
    """Items with facts."""
    generation: str
    """Names the inputs; equal inputs have equal names."""
    seconds: float

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        rate = (self.users + self.items) / self.seconds if self.seconds > 0 else 0.0
        return [
            f"store: {self.users:,} users with {self.entries:,} history entries, {self.items:,} items; left out "
            f"{self.impressions:,} impressions and {self.overflow:,} entries beyond the history length; "
            f"{self.seconds:.1f} s, {rate:,.0f} keys/s, generation {self.generation}"
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entries:
    """History entries in the order of their users and times, and where their items stand in the flat column."""

    users: pa.StringArray
    offsets: IntArray
    places: IntArray
    events: npt.NDArray[np.int8]
    times: IntArray
    impressions: int
    overflow: int


def backfill(workspace: Workspace, store: OnlineStore, config: StoreConfig) -> BackfillReport:
    """Write every user's newest events (of all splits) and every item's facts; doing it again changes nothing.

    Args:
        workspace: Holds the tables `sequences` and `clean_items`.
        store: Where to write.
        config: `history_length` applies.

    Raises:
        MissingTableError: A table has not been written yet.
        StoreUnavailableError: The store does not answer.
    """
    began = time.monotonic()
    sequences, items = workspace.table("sequences"), workspace.table("clean_items")
    generation = _generation(sequences.manifest().fingerprint, items.manifest().fingerprint)
    table = sequences.read(columns=["user_id", "split", "page_times", "page_lengths", "items", "events", "times"])
    flat_items = pc.list_flatten(table.column("items"))
    entries = _entries(table, config.history_length)
    for histories in _histories(entries, flat_items):
        store.write_histories(histories, generation=generation)
    facts = items.read()
    for start in range(0, facts.num_rows, ITEMS_PER_WRITE):
        store.write_items(item_facts(facts.slice(start, ITEMS_PER_WRITE)), generation=generation)
    name = f"{generation:016x}"
    newest = int(entries.times.max()) if len(entries.times) else None
    users = len(entries.users)
    store.write_freshness(Freshness(generation=name, newest_event_time=newest, users=users, items=facts.num_rows))
    return BackfillReport(
        users=users,
        entries=len(entries.times),
        impressions=entries.impressions,
        overflow=entries.overflow,
        items=facts.num_rows,
        generation=name,
        seconds=time.monotonic() - began,
    )


def item_facts(items: pa.Table) -> list[ItemFacts]:
    """Return the facts in rows of `features.schemas.ITEMS`."""
    columns = {
        "item_id": items.column("item_id"),
        "title": items.column("title"),
        "brand": items.column("brand"),
        "category": items.column("category"),
        "price": items.column("price"),
        "available_from": items.column("available_from").cast(pa.int64()),
        "available": pc.fill_null(items.column("available"), True),
    }
    rows = zip(*(column.to_pylist() for column in columns.values()), strict=True)
    return [
        ItemFacts(
            item_id=item_id,
            title=title,
            brand=brand,
            category=tuple(part for part in category or () if part is not None),
            price=price,
            available_from=available_from,
            available=available,
        )
        for item_id, title, brand, category, price, available_from, available in rows
    ]


def _entries(table: pa.Table, length: int) -> _Entries:
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
    return _Entries(
        users=users.dictionary.take(pa.array(active)),
        offsets=offsets_from_lengths(counts[active]),
        places=order,
        events=events[order],
        times=times[order],
        impressions=len(events) - len(kept),
        overflow=len(kept) - len(order),
    )


def _flat(table: pa.Table, column: str) -> IntArray:
    return np.asarray(pc.list_flatten(table.column(column)).cast(pa.int64()))


def _histories(entries: _Entries, flat_items: pa.ChunkedArray) -> Iterator[Histories]:
    """Yield the histories of some thousand users at a time: Arrow strings hold 2 GB at most."""
    for start in range(0, len(entries.users), USERS_PER_WRITE):
        users = entries.users.slice(start, USERS_PER_WRITE).to_pylist()
        offsets = entries.offsets[start : start + len(users) + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        items = flat_items.take(pa.array(entries.places[part])).combine_chunks()
        yield Histories(
            user_ids=users,
            offsets=offsets - offsets[0],
            item_ids=items if isinstance(items, pa.Array) else items.chunk(0),
            events=entries.events[part],
            times=entries.times[part],
        )


def _generation(*fingerprints: str) -> int:
    """Return 64 bits that name the inputs."""
    return int.from_bytes(hashlib.sha256("\n".join(fingerprints).encode()).digest()[:8])
