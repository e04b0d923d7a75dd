"""Keys of the catalogue's items, remembered from range to range.

The folds of users need category, brand and price of every item that something happened to: thousands in each range,
mostly the same. They are read once, until the stream writes facts of any item, which it notes before it does.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from features.events import ItemKeys
from features.online.recent import NO_KEYS
from features.store.base import ITEM, ITEM_CHANGES, NewBlob, OnlineStore, Version
from features.store.codec import read_item_payload

MOST_ITEMS = 50_000
"""So many items are remembered, then all are forgotten: large catalogues have tails that hardly ever come again."""
_NEWEST = "newest"


class CatalogueKeys:
    """What one process knows of the items' keys.

    Args:
        store: Has the facts.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._of: tuple[int, Version | None] | None = None
        self._asked, self._keys = set[str](), NO_KEYS

    def of(self, generation: int, item_ids: pa.ChunkedArray) -> ItemKeys:
        """Return keys of items, of these among others; who has no facts in this generation has none."""
        (changes,) = self._store.read_blobs([(ITEM_CHANGES, _NEWEST)], generation=generation)
        of = generation, changes and changes.version
        if of != self._of or len(self._asked) > MOST_ITEMS:
            self._of, self._asked, self._keys = of, set(), NO_KEYS
        new = [item_id for item_id in pc.unique(item_ids).to_pylist() if item_id not in self._asked]
        if new:
            self._keys = self._keys.joined(self._read(generation, new))
            self._asked.update(new)
        return self._keys

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
