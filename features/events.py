"""Events as arrays, ready to be folded: who, when, what kind, which item, and the keys of that item.

Legend: `E` events, `N` items.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import IdColumn, stacked_ids
from features.schemas import EVENT_KINDS, POSITIVE_CODES, TIMESTAMP
from kernels.hashing import hash_strings
from kernels.jagged import IntArray

ITEM_ID, CATEGORY, BRAND, PRICE = "item_id", "category", "brand", "price"
"""What of an item a feature may be keyed or looked up by."""
PAIR_DISTANCE = 2
"""Positive events of a user that lie at most this many positive events apart are co-visits."""
PAIR_GAP_MS = 86_400_000
"""Positive events further apart in time are no co-visits."""
CO_VISIT_ROWS = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("timestamp", TIMESTAMP),
        pa.field("code", pa.int8()),
        pa.field("other", pa.int64()),
    ]
)
"""An event of an item about another one, whose hash is `other`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemKeys:
    """Keys of catalogue items, sorted by the hash of their ids.

    Attributes:
        items_N: Hash of each id, as int64, increasing.
        categories: Hashes of every prefix of the category path, as `models.inputs.items` has them.
        brands: Hash of the brand, if known.
        prices_N: float64, nan where unknown.
    """

    items_N: IntArray
    categories: IdColumn
    brands: IdColumn
    prices_N: npt.NDArray[np.float64]

    @classmethod
    def of_items(cls, items: pa.Table) -> ItemKeys:
        """Read them from rows of `features.schemas.ITEMS` (columns `item_id`, `category`, `brand`, `price`)."""
        hashes = hash_strings(items.column(ITEM_ID)).view(np.int64)
        order = np.argsort(hashes, kind="stable")
        return cls(
            items_N=hashes[order],
            categories=IdColumn.of_strings(category_prefixes(items.column(CATEGORY))).take(order),
            brands=IdColumn.of_strings(items.column(BRAND)).take(order),
            prices_N=items.column(PRICE).cast(pa.float64()).to_numpy()[order],
        )

    def joined(self, other: ItemKeys) -> ItemKeys:
        """Return these keys and those of other items."""
        items = np.append(self.items_N, other.items_N)
        order = np.argsort(items, kind="stable")
        return ItemKeys(
            items_N=items[order],
            categories=stacked_ids([self.categories, other.categories]).take(order),
            brands=stacked_ids([self.brands, other.brands]).take(order),
            prices_N=np.append(self.prices_N, other.prices_N)[order],
        )

    def rows_of(self, items: IntArray) -> IntArray:
        """Return the row of each item hash, -1 where the item is unknown."""
        if not len(self.items_N):
            return np.full(len(items), -1, np.int64)
        rows = np.minimum(np.searchsorted(self.items_N, items), len(self.items_N) - 1)
        return np.where(self.items_N[rows] == items, rows, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Events:
    """`E` events in any order.

    Attributes:
        entity: int64 number of the user or item that the event belongs to.
        time: Milliseconds since 1970 UTC.
        code: Code of `EVENT_KINDS`.
        item: Hash of the item id, as int64.
        keys: Keys of the items of all events; an event finds its own by `item`.
    """

    entity: IntArray
    time: IntArray
    code: npt.NDArray[np.int8]
    item: IntArray
    keys: ItemKeys

    def __len__(self) -> int:
        return len(self.entity)

    @classmethod
    def of_rows(cls, rows: pa.Table, entity: IntArray, keys: ItemKeys) -> Events:
        """Read columns `item_id`, `event` and `timestamp` of rows of `features.schemas.EVENTS`."""
        code = pc.index_in(rows.column("event"), value_set=pa.array(EVENT_KINDS))
        return cls(
            entity=entity,
            time=np.asarray(rows.column("timestamp").cast(pa.int64()), dtype=np.int64),
            code=np.asarray(code).astype(np.int8),
            item=hash_strings(rows.column("item_id")).view(np.int64),
            keys=keys,
        )

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Events:
        """Return these events."""
        arrays = {name: getattr(self, name)[rows] for name in ("entity", "time", "code", "item")}
        return dataclasses.replace(self, **arrays)

    def key_column(self, key: str) -> IdColumn:
        """Return hashes of the items' `item_id`, `category` (every prefix) or `brand`, a row per event."""
        if key == ITEM_ID:
            return IdColumn(hashes=self.item.view(np.uint64), offsets=np.arange(len(self) + 1, dtype=np.int64))
        column = self.keys.categories if key == CATEGORY else self.keys.brands
        return column.take(self.keys.rows_of(self.item))

    def prices(self) -> npt.NDArray[np.float64]:
        """Return the catalogue price of each event's item, nan where unknown."""
        rows = self.keys.rows_of(self.item)
        held = self.keys.prices_N[rows] if len(self.keys.prices_N) else np.full(len(rows), np.nan)
        return np.where(rows >= 0, held, np.nan)


def co_visits(events: Events) -> tuple[IntArray, Events]:
    """Return the co-visits of users: pairs of items with a positive event of one user, close to each other.

    A pair is found when its later event happens, from that user's last positive events alone: so what items share is
    folded like everything else, user by user, as an event of each item about the other one.

    Args:
        events: Of users, each user's events complete.

    Returns:
        Per pair and direction: the row in `events` whose item it is an event of; and the event (time and kind of the
        later one, `item` is the other item, `entity` the user).
    """
    first, second = close_rows(events, positive_order(events))
    rows, others = np.append(first, second), np.append(second, first)
    return rows, dataclasses.replace(events.take(np.append(second, second)), item=events.item[others])


def positive_order(events: Events) -> IntArray:
    """Return the rows of positive events by entity, time, item and kind."""
    positive = np.flatnonzero(np.isin(events.code, POSITIVE_CODES))
    return positive[np.lexsort([getattr(events, name)[positive] for name in ("code", "item", "time", "entity")])]


def close_rows(events: Events, order: IntArray) -> tuple[IntArray, IntArray]:
    """Return the earlier and the later row of each pair of events that are co-visits.

    Args:
        events: Of users.
        order: Some of their positive events, in the order of `positive_order`.
    """
    earlier, later = [], []
    for distance in range(1, PAIR_DISTANCE + 1):
        first, second = order[:-distance], order[distance:]
        close = (
            (events.entity[first] == events.entity[second])
            & (events.item[first] != events.item[second])
            & (events.time[second] - events.time[first] <= PAIR_GAP_MS)
        )
        earlier.append(first[close])
        later.append(second[close])
    return np.concatenate(earlier), np.concatenate(later)


def category_prefixes(paths: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return every prefix of each path, root first.

    Example:
        >>> category_prefixes(pa.array([["Home", "Kitchen"], None])).to_pylist()
        [['Home', 'Home/Kitchen'], []]
    """
    prefixes = []
    for path in paths.to_pylist():
        known = [part for part in path or () if part is not None]
        prefixes.append(["/".join(known[: depth + 1]) for depth in range(len(known))])
    return pa.array(prefixes, pa.list_(pa.string()))
