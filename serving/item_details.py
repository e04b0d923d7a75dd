"""What is known of items, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
from pydantic import BaseModel, Field

from models.recommend.interface import NO_ITEM
from models.recommend.recommender import Recommender


class ItemDetails(BaseModel):
    """Facts of one item."""

    item_id: str
    title: str | None = Field(description="Null for an item that the release does not know.")
    category: list[str] = Field(default=[], description="Path, root first.")
    brand: str | None = None
    price: float | None = None


def item_details(item_ids: Sequence[str], maker: Recommender) -> list[ItemDetails]:
    """Describe items in the order asked for; of one that the release does not know, there is its id only.

    Args:
        item_ids: Items.
        maker: Knows them.
    """
    numbers = maker.catalogue.numbers(item_ids).tolist()
    table = maker.facts.table.select(["title", "category", "brand", "price"])
    rows = pa.array([number for number in numbers if number != NO_ITEM], pa.int64())
    known = iter(table.take(rows).to_pylist())
    return [
        ItemDetails(item_id=item, title=None) if number == NO_ITEM else _details(item, **next(known))
        for item, number in zip(item_ids, numbers, strict=True)
    ]


def _details(
    item_id: str, title: str, category: list[str] | None, brand: str | None, price: float | None
) -> ItemDetails:
    finite = price is not None and math.isfinite(price)
    return ItemDetails(
        item_id=item_id, title=title, category=category or [], brand=brand, price=price if finite else None
    )
