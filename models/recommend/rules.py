"""Which items a request may be shown at all: availability, the request's filters, what the user has seen or disliked.

Legend: `N` items of the catalogue, `B` requests.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import DISLIKE, EVENT_CODE, ITEMS
from features.semantic_ids import Catalogue
from features.workspace import conform
from kernels.jagged import offsets_from_lengths
from models.recommend.interface import RequestBatch

BoolArray = npt.NDArray[np.bool_]


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

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _category_entries(self) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """All names on all category paths, and the item each belongs to."""
        paths = self.table["category"].combine_chunks()
        return pc.list_flatten(paths), pc.list_parent_indices(paths).to_numpy()

    def allowed(self, time: int, filters: Filters | None = None) -> BoolArray:
        """Return which items may be shown at a time, shape `[N]`.

        Args:
            time: Milliseconds since 1970 UTC.
            filters: What the request asks for.
        """
        allowed_N = self.available_N & (self.available_from_N <= time)
        if filters is None:
            return allowed_N
        if filters.category is not None:
            names, owners = self._category_entries
            inside_N = np.zeros(len(self), dtype=bool)
            inside_N[owners[_bools(pc.fill_null(pc.equal(names, filters.category), False))]] = True
            allowed_N &= inside_N
        if filters.brand is not None:
            allowed_N &= _bools(pc.fill_null(pc.equal(self.table["brand"], filters.brand), False))
        if filters.min_price is not None:
            allowed_N &= self.price_N >= filters.min_price
        if filters.max_price is not None:
            allowed_N &= self.price_N <= filters.max_price
        return allowed_N


def with_exclusions(
    requests: RequestBatch, facts: CatalogueFacts, filters: Sequence[Filters | None], exclude_seen: bool
) -> RequestBatch:
    """Return the requests with everything they must not be shown among their excluded items.

    Args:
        requests: `B` requests.
        facts: Availability and what filters look at.
        filters: One per request.
        exclude_seen: Exclude the whole history; otherwise only what was disliked.
    """
    out_of_history = np.ones(len(requests.history_items), dtype=bool)
    if not exclude_seen:
        out_of_history = requests.history_events == EVENT_CODE[DISLIKE]
    excluded = []
    for row in range(len(requests)):
        history = slice(requests.history_offsets[row], requests.history_offsets[row + 1])
        given = slice(requests.excluded_offsets[row], requests.excluded_offsets[row + 1])
        forbidden_N = ~facts.allowed(int(requests.times_B[row]), filters[row])
        forbidden_N[requests.excluded_items[given]] = True
        forbidden_N[requests.history_items[history][out_of_history[history]]] = True
        excluded.append(np.flatnonzero(forbidden_N))
    return dataclasses.replace(
        requests,
        excluded_items=np.concatenate([*excluded, np.zeros(0, dtype=np.int64)]),
        excluded_offsets=offsets_from_lengths(np.array([len(items) for items in excluded], dtype=np.int64)),
    )


def _bools(values: pa.Array | pa.ChunkedArray) -> BoolArray:
    return np.array(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
