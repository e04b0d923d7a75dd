"""Small event logs as `Events`, and random ones with many ties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from features.columns import Columns, IdColumn
from features.events import Events, ItemKeys
from features.point_in_time import Anchors
from features.schemas import EVENT_CODE, ITEMS
from kernels.hashing import hash_strings

HOUR, DAY = 3_600_000, 86_400_000
NOW = 100 * DAY

CATALOGUE = pa.Table.from_pylist(
    [
        {"item_id": "pot", "title": "Pot", "category": ["Home", "Kitchen"], "brand": "Acme", "price": 20.0},
        {"item_id": "pan", "title": "Pan", "category": ["Home", "Kitchen"], "brand": "Bolt", "price": 30.0},
        {"item_id": "bed", "title": "Bed", "category": ["Home", "Sleep"], "brand": None, "price": 500.0},
        {"item_id": "book", "title": "Book", "category": None, "brand": "Acme", "price": None},
    ],
    schema=ITEMS,
)
KEYS = ItemKeys.of_items(CATALOGUE)


def text_hash(text: str) -> int:
    """The hash of one string."""
    return int(hash_strings(pa.array([text]))[0])


def events_of(rows: Sequence[tuple[int, str, str, int]]) -> Events:
    """Events from (entity, item id, kind, milliseconds)."""
    return Events(
        entity=np.array([row[0] for row in rows], dtype=np.int64),
        item=hash_strings(pa.array([row[1] for row in rows], pa.string())).view(np.int64),
        code=np.array([EVENT_CODE[row[2]] for row in rows], dtype=np.int8),
        time=np.array([row[3] for row in rows], dtype=np.int64),
        keys=KEYS,
    )


def random_log(rng: np.random.Generator, size: int, *, entities: int = 3, days: int = 40) -> Events:
    """Events at few distinct moments, some of items that the catalogue does not have."""
    items = hash_strings(pa.array(["pot", "pan", "bed", "book", "unknown", "gone"])).view(np.int64)
    moments = rng.integers(0, days * DAY, size=max(size // 3, 1))
    return Events(
        entity=rng.integers(0, entities, size),
        item=items[rng.integers(0, len(items), size)],
        code=rng.integers(0, 5, size).astype(np.int8),
        time=moments[rng.integers(0, len(moments), size)],
        keys=KEYS,
    )


def random_anchors(rng: np.random.Generator, size: int, events: Events, *, entities: int = 3) -> Anchors:
    """Moments, half of them exactly those of events; one entity more than there is."""
    time = rng.integers(0, 45 * DAY, size)
    if len(events):
        time = np.where(rng.random(size) < 0.5, events.time[rng.integers(0, len(events), size)], time)
    entity = rng.integers(0, entities + 1, size)
    order = np.lexsort((time, entity))
    return Anchors(entity=entity[order], time=time[order])


def weights_of(column: IdColumn, row: int) -> dict[int, float]:
    """Hash -> weight of one row."""
    part = slice(column.offsets[row], column.offsets[row + 1])
    return dict(zip(column.hashes[part].tolist(), column.weights[part].tolist(), strict=True))


def ids_of(column: IdColumn, row: int) -> list[int]:
    """Hashes of one row."""
    return column.hashes[column.offsets[row] : column.offsets[row + 1]].tolist()


def assert_equal_columns(a: Columns, b: Columns) -> None:
    """Equal bit for bit."""
    assert (a.rows, sorted(a.ids), sorted(a.numbers)) == (b.rows, sorted(b.ids), sorted(b.numbers))
    for name, values in a.numbers.items():
        np.testing.assert_array_equal(values, b.numbers[name], err_msg=name)
    for name, column in a.ids.items():
        np.testing.assert_array_equal(column.offsets, b.ids[name].offsets, err_msg=name)
        np.testing.assert_array_equal(column.hashes, b.ids[name].hashes, err_msg=name)
        assert (column.weights is None) == (b.ids[name].weights is None)
        if column.weights is not None:
            np.testing.assert_array_equal(column.weights, b.ids[name].weights, err_msg=name)
