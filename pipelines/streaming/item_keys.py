"""Keys of the catalogue's items, remembered from range to range.

The folds of users need category, brand and price of every item that something happened to: thousands in each range,
mostly the same. They are read once, until the stream writes facts of any item, which it notes before it does.
"""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc

from features.events import ItemKeys
from features.online.recent import NO_KEYS
from features.store.base import ITEM, ITEM_CHANGES, NewBlob, OnlineStore, Version
from features.store.codec import read_item_payload

MOST_ITEMS = 50_000
"""So many items are remembered, then all are forgotten: large catalogues have tails that hardly ever come again."""
GENERATIONS = 2
"""The one that is read, and the one that catches up beside it."""
_NEWEST = "newest"


@dataclasses.dataclass
class _Known:
    """Of a generation: version of the newest facts, items that were asked for, and the keys of those with facts."""

    changes: Version | None
    asked: set[str] = dataclasses.field(default_factory=set)
    keys: ItemKeys = NO_KEYS


class CatalogueKeys:
    """What one process knows of the items' keys.

    Args:
        store: Has the facts.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._known: dict[int, _Known] = {}

    def of(self, generation: int, item_ids: pa.ChunkedArray) -> ItemKeys:
        """Return keys of items, of these among others; who has no facts in this generation has none."""
        (held,) = self._store.read_blobs([(ITEM_CHANGES, _NEWEST)], generation=generation)
        known = self._known.pop(generation, None)
        changes = None if held is None else held.version
        if known is None or known.changes != changes or len(known.asked) > MOST_ITEMS:
            known = _Known(changes)
        self._known = {**dict([*self._known.items()][1 - GENERATIONS :]), generation: known}
        new = [item_id for item_id in pc.unique(item_ids).to_pylist() if item_id not in known.asked]
        if new:
            known.keys = known.keys.joined(self._read(generation, new))
            known.asked.update(new)
        return known.keys

    def _read(self, generation: int, item_ids: list[str]) -> ItemKeys:
        held = self._store.read_blobs([(ITEM, item_id) for item_id in item_ids], generation=generation)
        facts = [read_item_payload(blob.payload) for blob in held if blob is not None]
        columns = {
            "item_id": pa.array([found.item_id for found in facts], pa.string()),
            "category": pa.array([list(found.category) for found in facts], pa.list_(pa.string())),
            "brand": pa.array([found.brand for found in facts], pa.string()),
            "price": pa.array([found.price for found in facts], pa.float64()),
        }
        return ItemKeys.of_items(pa.table(columns))


def note_changes(store: OnlineStore, version: Version) -> None:
    """Say that facts of items of this version are about to be written."""
    store.write_blobs([NewBlob(ITEM_CHANGES, _NEWEST, version, 0, b"")])
