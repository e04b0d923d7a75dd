"""Tables -> entries of one generation of the online store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns
from features.definitions import ITEM_FEATURES, USER_STATES
from features.schemas import CLEAN_TABLES
from features.store.base import ItemFacts, OnlineStore, Version
from features.store.histories import SEQUENCE_COLUMNS, histories_of, history_entries
from features.values import ItemSnapshots
from features.workspace import Workspace

USERS_PER_WRITE = 20_000
ITEMS_PER_WRITE = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filled:
    """What was written."""

    users: int
    """Users with a history."""
    entries: int
    """History entries written."""
    impressions: int
    """Sequence entries left out because they are impressions."""
    overflow: int
    """Entries left out because their user has `history_length` newer ones."""
    newest_event_time: int | None
    """In any history, milliseconds."""
    items: int
    """Items with facts."""
    states: int
    """Users with a state of features."""
    attributes: int
    """Users with attributes."""
    item_features: int
    """Items with features."""

    @property
    def keys(self) -> int:
        """Keys written."""
        return self.users + self.items + self.states + self.attributes + self.item_features

    def lines(self) -> list[str]:
        """Return lines for a terminal."""
        return [
            f"store: {self.users:,} users with {self.entries:,} history entries, {self.items:,} items; left out "
            f"{self.impressions:,} impressions and {self.overflow:,} entries beyond the history length",
            f"store: feature states of {self.states:,} users, attributes of {self.attributes:,}, features of "
            f"{self.item_features:,} items",
        ]


def fill(
    workspace: Workspace, store: OnlineStore, history_length: int, version: Version, check: Callable[[], None]
) -> Filled:
    """Write everything that the tables say.

    Args:
        workspace: Holds the tables `sequences` and `clean_items`, perhaps the others.
        store: Where to write.
        history_length: Newest entries kept per user.
        version: Of every entry.
        check: Called before each write; raises if the writing must end.
    """
    table = workspace.table("sequences").read(columns=SEQUENCE_COLUMNS)
    entries = history_entries(table, history_length)
    for histories in histories_of(table, entries, USERS_PER_WRITE):
        check()
        store.write_histories(histories, version=version)
    facts = workspace.table(CLEAN_TABLES["items"]).read()
    for start in range(0, facts.num_rows, ITEMS_PER_WRITE):
        check()
        store.write_items(item_facts(facts.slice(start, ITEMS_PER_WRITE)), version=version)
    return Filled(
        users=len(entries.users),
        entries=len(entries.times),
        impressions=entries.impressions,
        overflow=entries.overflow,
        newest_event_time=int(entries.times.max()) if len(entries.times) else None,
        items=facts.num_rows,
        states=_write_states(workspace, store, version, check),
        attributes=_write_attributes(workspace, store, version, check),
        item_features=_write_item_features(workspace, store, version, check),
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


def newest_item_features(workspace: Workspace, item_ids: pa.Array) -> Columns | None:
    """Return the newest features of these items, the defaults for an unknown one; None where all are unknown."""
    if not workspace.table(ITEM_FEATURES).exists():
        return None
    snapshots = ItemSnapshots.load(workspace, item_ids)
    return snapshots.latest() if len(snapshots.keys_S) else None


def user_attributes(rows: pa.Table) -> list[dict[str, str]]:
    """Return the attributes in rows of `features.schemas.USERS`; those without a value are left out."""
    return [
        {name: value for name, value in attributes or () if value is not None}
        for attributes in rows.column("attributes").to_pylist()
    ]


def _write_states(workspace: Workspace, store: OnlineStore, version: Version, check: Callable[[], None]) -> int:
    written = 0
    for batch in _batches(workspace, USER_STATES, columns=["user_id", "state", "last_time"]):
        check()
        user_ids, states = (batch.column(name).to_pylist() for name in ("user_id", "state"))
        times = batch.column("last_time").cast(pa.int64()).to_pylist()
        store.write_states(user_ids, states, event_times=times, version=version)
        written += batch.num_rows
    return written


def _write_attributes(workspace: Workspace, store: OnlineStore, version: Version, check: Callable[[], None]) -> int:
    written = 0
    for batch in _batches(workspace, CLEAN_TABLES["users"], filter=pc.field("attributes").is_valid()):
        check()
        user_ids = batch.column("user_id").to_pylist()
        store.write_attributes(user_ids, user_attributes(pa.Table.from_batches([batch])), version=version)
        written += batch.num_rows
    return written


def _write_item_features(workspace: Workspace, store: OnlineStore, version: Version, check: Callable[[], None]) -> int:
    table = workspace.table(ITEM_FEATURES)
    if not table.exists():
        return 0
    newest = table.read(["item_id", "as_of"]).group_by("item_id").aggregate([("as_of", "max")])
    item_ids = newest.column("item_id").combine_chunks()
    times = newest.column("as_of_max").cast(pa.int64()).to_pylist()
    features = newest_item_features(workspace, item_ids)
    if features is None:
        return 0
    for start in range(0, len(item_ids), ITEMS_PER_WRITE):
        check()
        part = slice(start, start + ITEMS_PER_WRITE)
        rows = features.take(np.arange(len(item_ids))[part])
        store.write_item_features(item_ids[part].to_pylist(), rows, event_times=times[part], version=version)
    return len(item_ids)


def _batches(workspace: Workspace, name: str, **options: Any) -> Iterator[pa.RecordBatch]:
    table = workspace.table(name)
    if table.exists():
        yield from table.dataset().to_batches(batch_size=USERS_PER_WRITE, **options)
