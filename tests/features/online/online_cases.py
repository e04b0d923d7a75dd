"""Random event logs as rows of `events`, as they happened and as they are delivered."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.events import ItemKeys
from features.schemas import EVENT_KINDS, EVENTS, IMPRESSION, ITEMS

HOUR, DAY = 3_600_000, 86_400_000
START = 20_000 * DAY
ITEM_IDS = [f"item {number}" for number in range(12)]
CATALOGUE = pa.Table.from_pylist(
    [
        {
            "item_id": item_id,
            "title": item_id,
            "category": [["Home", "Kitchen"], ["Home"], None][number % 3],
            "brand": ["Acme", "Bolt", None][number % 2 + (number == 7)],
            "price": None if number == 5 else 10.0 + number,
        }
        for number, item_id in enumerate(ITEM_IDS[:-2])
    ],
    schema=ITEMS,
)
KEYS = ItemKeys.of_items(CATALOGUE)


def random_rows(
    rng: np.random.Generator, size: int, *, users: int = 4, days: float = 5, bursts: float = 0.4
) -> pa.Table:
    """Distinct events in the order of their times; many of one millisecond, a share `bursts` without request ids."""
    moments = START + np.sort(rng.integers(0, round(days * DAY), max(size // 2, 1)))
    moments = np.where(rng.random(len(moments)) < 0.3, np.roll(moments, 1) + 600_000, moments)
    time = np.sort(moments[rng.integers(0, len(moments), size)])
    user = rng.integers(0, users, size)
    item = rng.integers(0, len(ITEM_IDS), size)
    code = rng.choice(5, size, p=[0.4, 0.25, 0.1, 0.15, 0.1])
    without = rng.random(size) < bursts
    page = time // (6 * HOUR)
    position = np.where(rng.random(size) < 0.5, rng.integers(0, 3, size), -1)
    rows = [
        {
            "event_id": f"e{number}",
            "user_id": f"user {user[number]}",
            "item_id": ITEM_IDS[item[number]],
            "event": EVENT_KINDS[code[number]],
            "timestamp": int(time[number]),
            "request_id": None if without[number] else f"r {user[number]} {page[number]}",
            "position": None if position[number] < 0 else int(position[number]),
        }
        for number in range(size)
    ]
    distinct = {(row["request_id"], row["item_id"]) if _is_served(row) else row["event_id"]: row for row in rows}
    return pa.Table.from_pylist(list(distinct.values()), schema=EVENTS)


def _is_served(row: dict) -> bool:
    return row["event"] == IMPRESSION and row["request_id"] is not None
