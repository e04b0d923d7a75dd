"""A catalogue of six items, retrievers with fixed lists, and short ways to write requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from features.schemas import CLICK, EVENT_CODE, ITEMS
from features.semantic_ids import Catalogue
from kernels.jagged import columns, offsets_from_lengths
from models.recommend.interface import NO_ITEM, Candidates, RequestBatch
from models.recommend.rules import CatalogueFacts, Filters

NOON = int(datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp() * 1000)
DAY = 86_400_000

ITEM_ROWS = [
    {"item_id": "i0", "title": "Red kite", "category": ["toys", "outdoor"], "brand": "acme", "price": 10.0},
    {"item_id": "i1", "title": "Blue kite", "category": ["toys", "outdoor"], "brand": "bolt", "price": 20.0},
    {"item_id": "i2", "title": "Puzzle", "category": ["toys", "indoor"], "brand": "acme", "price": 30.0},
    {"item_id": "i3", "title": "Novel", "category": ["books"], "brand": None, "price": None},
    {"item_id": "i4", "title": "Atlas", "category": ["books"], "brand": "bolt", "price": 40.0, "available": False},
    {
        "item_id": "i5",
        "title": "Sequel",
        "category": ["books"],
        "brand": "bolt",
        "price": 15.0,
        "available_from": datetime(2024, 5, 2, 12, tzinfo=UTC),
    },
]


def items_table() -> pa.Table:
    return pa.Table.from_pylist(ITEM_ROWS, schema=ITEMS)


def small_catalogue() -> Catalogue:
    codes_NL = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])
    return Catalogue([row["item_id"] for row in ITEM_ROWS], codes_NL, (3, 2))


def small_facts() -> CatalogueFacts:
    return CatalogueFacts(items_table(), small_catalogue())


def batch(
    histories: Sequence[Sequence[int]], *, excluded: Sequence[Sequence[int]] | None = None, event: str = CLICK
) -> RequestBatch:
    """Requests at noon with these histories (item numbers, oldest first), one event a day."""
    excluded = [[]] * len(histories) if excluded is None else excluded
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    items = np.array([item for history in histories for item in history], dtype=np.int64)
    return RequestBatch(
        user_ids=[f"u{row}" for row in range(len(histories))],
        times_B=np.full(len(histories), NOON),
        history_items=items,
        history_events=np.full(len(items), EVENT_CODE[event], dtype=np.int8),
        history_times=NOON - DAY * (np.repeat(lengths, lengths) - columns(lengths)),
        history_offsets=offsets_from_lengths(lengths),
        excluded_items=np.array([item for row in excluded for item in row], dtype=np.int64),
        excluded_offsets=offsets_from_lengths(np.array([len(row) for row in excluded], dtype=np.int64)),
    )


def random_facts(rng: np.random.Generator, items: int, catalogue: Catalogue | None = None) -> CatalogueFacts:
    """Items `i0`, `i1`, ... with facts that are often missing, some not available, some only from a day on."""
    catalogue = catalogue or Catalogue([f"i{n}" for n in range(items)], np.zeros((items, 1), np.int64), (1,))
    noon = datetime.fromtimestamp(NOON / 1000, UTC)
    rows = [
        {
            "item_id": f"i{number}",
            "title": f"thing {number}",
            "category": [None, [], ["a"], ["a", "b"], ["c", "b"]][rng.integers(5)],
            "brand": [None, "x", "y"][rng.integers(3)],
            "price": [None, *range(5)][rng.integers(6)],
            "available": [None, True, True, False][rng.integers(4)],
            "available_from": None if rng.random() < 0.5 else noon + timedelta(days=int(rng.integers(-3, 4))),
        }
        for number in range(items)
    ]
    return CatalogueFacts(pa.Table.from_pylist(rows, schema=ITEMS), catalogue)


def random_filters(rng: np.random.Generator) -> Filters | None:
    """One of few, so that requests share some."""
    choices = [
        None,
        Filters(),
        Filters(category="b"),
        Filters(category="a", brand="x"),
        Filters(brand="y", min_price=1),
        Filters(min_price=1, max_price=3),
        Filters(category="nothing"),
        Filters(max_price=0),
    ]
    return choices[rng.integers(len(choices))]


def passes(row: Mapping[str, Any], time: int, filters: Filters | None) -> bool:
    """The rule for one item, word by word."""
    wanted = filters or Filters()
    price = row["price"]
    return (
        row["available"] is not False
        and (row["available_from"] is None or row["available_from"].timestamp() * 1000 <= time)
        and (wanted.category is None or wanted.category in (row["category"] or []))
        and (wanted.brand is None or row["brand"] == wanted.brand)
        and (wanted.min_price is None or (price is not None and price >= wanted.min_price))
        and (wanted.max_price is None or (price is not None and price <= wanted.max_price))
    )


class ListRetriever:
    """Proposes the same items to everybody, in the order given, less what the request may not get."""

    def __init__(self, name: str, items: Sequence[int], step: float = 1.0) -> None:
        self.name, self.items, self.step = name, items, step

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        items_BK = np.full((len(requests), k), NO_ITEM, dtype=np.int64)
        scores_BK = np.full((len(requests), k), -np.inf, dtype=np.float32)
        for row in range(len(requests)):
            permitted = requests.permits(np.full(len(self.items), row), np.array(self.items, dtype=np.int64))
            left = np.array(self.items)[permitted][:k]
            items_BK[row, : len(left)] = left
            scores_BK[row, : len(left)] = 100 - self.step * np.arange(len(left), dtype=np.float32)
        return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=self.name)


class BrokenRetriever:
    def __init__(self, name: str) -> None:
        self.name = name

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        raise RuntimeError(f"no weights for {len(requests)} requests")
