"""Which items a request may be shown at all: availability, the request's filters, what the user has seen or disliked.

Legend: `N` items of the catalogue, `B` requests.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import DISLIKE, EVENT_CODE, ITEMS
from features.semantic_ids import Catalogue
from features.workspace import conform
from kernels.jagged import row_numbers
from models.recommend.config import CATEGORY
from models.recommend.eligibility import BoolArray, Eligibility, Ints, ItemMask, shared
from models.recommend.interface import RequestBatch

Kept = TypeVar("Kept")
KEPT_MASKS = 64
"""Masks kept for requests to come, at most."""
KEPT_MASK_BYTES = 512 * 1024**2
"""Bytes that the kept masks and what retrievers work out of them may take, roughly."""
_FEWEST_MASKS = 8
"""Kept in any case: availability alone, and what is asked for most."""
_BYTES_PER_ITEM = 6
"""Of one mask: a byte, and a cumulative count of 4 bytes per semantic ID."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
    """What a request asks of every item; None asks nothing.

    Attributes:
        category: A name anywhere on the item's category path.
        brand: The item's brand.
        min_price, max_price: Bounds, inclusive; an item without a price lies outside any bound.
    """

    category: str | None = None
    brand: str | None = None
    min_price: float | None = None
    max_price: float | None = None

    def __post_init__(self) -> None:
        mistakes = []
        for name in ("category", "brand"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                mistakes.append(f"{name}: expected a string, got {value!r}")
        for name in ("min_price", "max_price"):
            value = getattr(self, name)
            if value is not None and not _is_price(value):
                mistakes.append(f"{name}: expected a finite number >= 0, got {value!r}")
        if not mistakes and None not in (self.min_price, self.max_price) and self.min_price > self.max_price:  # type: ignore[operator]
            mistakes.append(f"min_price: expected at most max_price = {self.max_price}, got {self.min_price}")
        if mistakes:
            raise ValueError("filters: " + "; ".join(mistakes))

    @property
    def text(self) -> str:
        """What is asked, for people; empty where nothing is.

        Example:
            >>> Filters(category="toys", max_price=3).text
            "category='toys', max_price=3"
        """
        asked = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return ", ".join(f"{name}={value!r}" for name, value in asked.items())

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Filters:
        """Read a JSON object.

        Raises:
            ValueError: An unknown name or a value of the wrong kind.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(document) - set(known))
        if unknown:
            raise ValueError(f"filters: unknown {', '.join(unknown)}; expected some of {', '.join(known)}")
        return cls(**document)


class CatalogueFacts:
    """The facts that rules need, one row per item of the catalogue, in the catalogue's order.

    Args:
        items: Rows of the `items` schema; rows of items outside the catalogue are ignored; an item without a row has
            its id as title, no other facts, and is available.
        catalogue: The items.
    """

    def __init__(self, items: pa.Table, catalogue: Catalogue) -> None:
        items = conform(items, ITEMS, "items")
        row_N = pc.index_in(catalogue.item_ids, value_set=items["item_id"].combine_chunks())
        table = items.take(row_N).combine_chunks()
        titles = pc.coalesce(table["title"].combine_chunks(), catalogue.item_ids)
        self.table: pa.Table = table.set_column(0, ITEMS.field("item_id"), catalogue.item_ids).set_column(
            1, ITEMS.field("title"), titles
        )
        self.available_N = _bools(pc.fill_null(self.table["available"], True))
        from_time = pc.fill_null(self.table["available_from"].cast(pa.int64()), np.iinfo(np.int64).min)
        self.available_from_N: npt.NDArray[np.int64] = from_time.to_numpy()
        self.price_N: npt.NDArray[np.float64] = self.table["price"].to_numpy()  # nan where there is none
        self._groups: dict[str, Ints] = {}
        self._made: dict[Hashable, object] = {}
        # Held weakly, lest facts that a service has replaced, and all their masks, wait for the garbage collector.
        make = partial(CatalogueFacts._mask_at, weakref.proxy(self))
        self._kept = lru_cache(maxsize=kept_masks(len(self.table)))(make)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _distinct_from(self) -> Ints:
        """The moments at which items become available, sorted: between two of them availability stays as it is."""
        return np.unique(self.available_from_N[self.available_N])

    @cached_property
    def _brands(self) -> tuple[pa.Array, npt.NDArray[np.int32]]:
        """The distinct brands, and each item's place among them."""
        return _encoded(self.table["brand"].combine_chunks())

    @cached_property
    def _categories(self) -> tuple[pa.Array, npt.NDArray[np.int32], Ints]:
        """The distinct names on category paths; of all entries of all paths, the place among them and the item."""
        paths = self.table["category"].combine_chunks()
        names, place_X = _encoded(pc.list_flatten(paths))
        return names, place_X, pc.list_parent_indices(paths).to_numpy()

    def groups(self, name: str) -> Ints:
        """Return the number of each item's brand or category path, -1 for an item without, shape `[N]`."""
        if name not in self._groups:
            values = self.table[name].combine_chunks()
            if name == CATEGORY:  # a control character no name holds joins the path
                values = pc.if_else(pc.equal(pc.list_value_length(values), 0), None, pc.binary_join(values, "\x1f"))
            self._groups[name] = _encoded(values)[1].astype(np.int64)
        return self._groups[name]

    def in_category(self, name: str) -> BoolArray:
        """Return which items have a name anywhere on their category path, shape `[N]`."""
        names, place_X, item_X = self._categories
        inside_N = np.zeros(len(self), dtype=bool)
        inside_N[item_X[place_X == _place(names, name)]] = True
        return inside_N

    def of_brand(self, name: str) -> BoolArray:
        """Return which items are of a brand, shape `[N]`."""
        brands, place_N = self._brands
        of_brand_N: BoolArray = place_N == _place(brands, name)
        return of_brand_N

    def kept(self, key: Hashable, make: Callable[[CatalogueFacts], Kept]) -> Kept:
        """Return what `make` works out of these facts, worked out once for all who ask with this key.

        Args:
            key: Says what it is; what is made must not hold these facts.
            make: Is given these facts.
        """
        if key not in self._made:
            self._made[key] = make(self)
        return cast(Kept, self._made[key])

    def allowed(self, time: int, filters: Filters | None = None) -> BoolArray:
        """Return which items may be shown at a time, shape `[N]`; costs a pass over the catalogue.

        Args:
            time: Milliseconds since 1970 UTC.
            filters: What the request asks for.
        """
        allowed_N = self.available_N & (self.available_from_N <= time)
        if filters is None:
            return allowed_N
        if filters.category is not None:
            allowed_N &= self.in_category(filters.category)
        if filters.brand is not None:
            allowed_N &= self.of_brand(filters.brand)
        if filters.min_price is not None:
            allowed_N &= self.price_N >= filters.min_price
        if filters.max_price is not None:
            allowed_N &= self.price_N <= filters.max_price
        return allowed_N

    def mask(self, time: int, filters: Filters | None = None) -> ItemMask:
        """Return `allowed` as a mask; one that was asked for lately is given again, the same object."""
        return self._kept(self._position(time), filters or Filters())

    def eligibility(self, times_B: Ints, filters: Sequence[Filters | None]) -> Eligibility:
        """Return which items may be shown to each request.

        Args:
            times_B: Milliseconds since 1970 UTC.
            filters: One per request.
        """
        asked = [
            (self._position(int(time)), wanted or Filters()) for time, wanted in zip(times_B, filters, strict=True)
        ]
        return shared(asked, lambda row: self._kept(*asked[row]))

    def _position(self, time: int) -> int:
        """Return how many of the moments that change availability lie at or before a time."""
        return int(np.searchsorted(self._distinct_from, time, side="right"))

    def _mask_at(self, position: int, filters: Filters) -> ItemMask:
        time = int(self._distinct_from[position - 1]) if position else np.iinfo(np.int64).min
        return ItemMask(self.allowed(time, filters))


def kept_masks(items: int) -> int:
    """Return how many masks over so many items are kept for requests to come.

    Example:
        >>> kept_masks(50_000), kept_masks(10_000_000)
        (64, 8)
    """
    fitting = KEPT_MASK_BYTES // (_BYTES_PER_ITEM * max(items, 1))
    return min(KEPT_MASKS, max(_FEWEST_MASKS, fitting))


def with_rules(
    requests: RequestBatch, facts: CatalogueFacts, filters: Sequence[Filters | None], exclude_seen: bool
) -> RequestBatch:
    """Return the requests with everything they must not be shown: filtered out, or among their excluded items.

    Args:
        requests: `B` requests, not filtered yet.
        facts: Availability and what filters look at.
        filters: One per request.
        exclude_seen: Exclude the whole history; otherwise only what was disliked.

    Raises:
        ValueError: The requests are filtered already.
    """
    if requests.eligible is not None:
        raise ValueError("requests: expected none with `eligible`, which the page maker's rules set, got some")
    rows_H, items_H = row_numbers(np.diff(requests.history_offsets)), requests.history_items
    if not exclude_seen:
        disliked = requests.history_events == EVENT_CODE[DISLIKE]
        rows_H, items_H = rows_H[disliked], items_H[disliked]
    ruled = requests.excluding(rows_H, items_H)
    return dataclasses.replace(ruled, eligible=facts.eligibility(requests.times_B, filters))


def _encoded(values: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """Return the distinct values and the place of each value among them, -1 for null."""
    encoded = pc.dictionary_encode(values)
    return encoded.dictionary, pc.fill_null(encoded.indices, -1).to_numpy()


def _place(distinct: pa.Array, value: str) -> int:
    """Return the place of a value, one that nothing has where it is not there."""
    place: int = pc.index(distinct, value).as_py()
    return len(distinct) if place < 0 else place


def _bools(values: pa.Array | pa.ChunkedArray) -> BoolArray:
    return np.array(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
