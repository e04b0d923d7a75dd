"""Fill the online store from a workspace's tables.

Histories come from `sequences`, facts from `clean_items`; where there are such tables, states of user features from
`user_states`, user attributes from `clean_users`, item features from `item_features`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns
from features.definitions import ITEM_FEATURES, USER_STATES
from features.schemas import CLEAN_TABLES
from features.store.base import Freshness, ItemFacts, OnlineStore
from features.store.config import StoreConfig
from features.store.histories import SEQUENCE_COLUMNS, histories_of, history_entries
from features.values import ItemSnapshots
from features.workspace import Workspace

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
    states: int
    """Users with a state of features."""
    attributes: int
    """Users with attributes."""
    item_features: int
    """Items with features."""
    generation: str
    """Names the inputs; equal inputs have equal names."""
    seconds: float

    @property
    def keys(self) -> int:
        """Keys written."""
        return self.users + self.items + self.states + self.attributes + self.item_features

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        rate = self.keys / self.seconds if self.seconds > 0 else 0.0
        return [
            f"store: {self.users:,} users with {self.entries:,} history entries, {self.items:,} items; left out "
            f"{self.impressions:,} impressions and {self.overflow:,} entries beyond the history length",
            f"store: feature states of {self.states:,} users, attributes of {self.attributes:,}, features of "
            f"{self.item_features:,} items; {self.seconds:.1f} s, {rate:,.0f} keys/s, generation {self.generation}",
        ]


def backfill(workspace: Workspace, store: OnlineStore, config: StoreConfig) -> BackfillReport:
    """Write what is known of every user and item; doing it again changes nothing.

    Args:
        workspace: Holds the tables `sequences` and `clean_items`, perhaps the others.
        store: Where to write.
        config: `history_length` applies.

    Raises:
        MissingTableError: A table has not been written yet.
        StoreUnavailableError: The store does not answer.
    """
    began = time.monotonic()
    sequences, items = workspace.table("sequences"), workspace.table("clean_items")
    extra = [workspace.table(name) for name in (USER_STATES, CLEAN_TABLES["users"], ITEM_FEATURES)]
    present = [table for table in extra if table.exists()]
    generation = _generation(*(table.manifest().fingerprint for table in (sequences, items, *present)))
    table = sequences.read(columns=SEQUENCE_COLUMNS)
    entries = history_entries(table, config.history_length)
    for histories in histories_of(table, entries, USERS_PER_WRITE):
        store.write_histories(histories, generation=generation)
    facts = items.read()
    for start in range(0, facts.num_rows, ITEMS_PER_WRITE):
        store.write_items(item_facts(facts.slice(start, ITEMS_PER_WRITE)), generation=generation)
    states = _write_states(workspace, store, generation)
    attributes = _write_attributes(workspace, store, generation)
    item_features = _write_item_features(workspace, store, generation)
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
        states=states,
        attributes=attributes,
        item_features=item_features,
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


def _write_states(workspace: Workspace, store: OnlineStore, generation: int) -> int:
    table, written = workspace.table(USER_STATES), 0
    if not table.exists():
        return 0
    for batch in table.dataset().to_batches(["user_id", "state"], batch_size=USERS_PER_WRITE):
        user_ids, states = (column.to_pylist() for column in batch.columns)
        store.write_states(user_ids, states, generation=generation)
        written += batch.num_rows
    return written


def _write_attributes(workspace: Workspace, store: OnlineStore, generation: int) -> int:
    table, written = workspace.table(CLEAN_TABLES["users"]), 0
    if not table.exists():
        return 0
    known = pc.field("attributes").is_valid()
    for batch in table.dataset().to_batches(filter=known, batch_size=USERS_PER_WRITE):
        rows = pa.Table.from_batches([batch])
        store.write_attributes(rows.column("user_id").to_pylist(), user_attributes(rows), generation=generation)
        written += batch.num_rows
    return written


def _write_item_features(workspace: Workspace, store: OnlineStore, generation: int) -> int:
    table = workspace.table(ITEM_FEATURES)
    if not table.exists():
        return 0
    item_ids = pc.unique(table.read(["item_id"]).column("item_id"))
    features = newest_item_features(workspace, item_ids)
    if features is None:
        return 0
    for start in range(0, len(item_ids), ITEMS_PER_WRITE):
        part = item_ids.slice(start, ITEMS_PER_WRITE)
        rows = features.take(np.arange(start, start + len(part)))
        store.write_item_features(part.to_pylist(), rows, generation=generation)
    return len(item_ids)


def _generation(*fingerprints: str) -> int:
    """Return 64 bits that name the inputs."""
    return int.from_bytes(hashlib.sha256("\n".join(fingerprints).encode()).digest()[:8])
