"""The catalogue's keys, remembered from range to range: as the store has them, read once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import stream_world as world

from features.events import ItemKeys
from features.schemas import ITEMS
from features.store.base import Version
from features.store.filling import item_facts
from features.store.redis_store import RedisStore
from kernels.hashing import hash_strings
from pipelines.streaming import item_keys
from pipelines.streaming.item_keys import CatalogueKeys, note_changes

pytestmark = pytest.mark.integration


@pytest.fixture
def store(redis_url: str, request: pytest.FixtureRequest):
    with RedisStore(redis_url, world.store_config(redis_url, request.node.name[:40])) as opened:
        yield opened


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ITEMS)


def write(store: RedisStore, version: Version, *rows: dict) -> None:
    """Write facts as the stream does."""
    note_changes(store, version)
    store.write_items(item_facts(table(*rows)), version=version)


def prices(keys: ItemKeys, *items: str) -> list[float | None]:
    rows = keys.rows_of(hash_strings(pa.array(items)).view(np.int64))
    return [None if row < 0 else float(keys.prices_N[row]) for row in rows]


def chunked(*items: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(items, pa.string())])


def test_keys_of_two_parts_are_those_of_all() -> None:
    rng = np.random.default_rng(0)
    rows = [
        world.item(f"item{number}", brand=[None, "B", "C"][rng.integers(3)], price=[None, 2.5][rng.integers(2)])
        for number in rng.permutation(40)
    ]
    for cut in (0, 13, 40):
        both = ItemKeys.of_items(table(*rows[:cut])).joined(ItemKeys.of_items(table(*rows[cut:])))
        whole = ItemKeys.of_items(table(*rows))
        assert both.items_N.tolist() == whole.items_N.tolist()
        np.testing.assert_array_equal(both.prices_N, whole.prices_N)
        for mine, all_of_them in ((both.categories, whole.categories), (both.brands, whole.brands)):
            assert mine.hashes.tolist() == all_of_them.hashes.tolist()
            assert mine.offsets.tolist() == all_of_them.offsets.tolist()


def test_facts_are_read_once_until_the_stream_writes_some(store, monkeypatch) -> None:
    write(store, Version(1, 5), world.item("a", price=1.0), world.item("b", price=2.0))
    asked, read = list[list[str]](), CatalogueKeys._read
    monkeypatch.setattr(CatalogueKeys, "_read", lambda self, g, ids: asked.append(ids) or read(self, g, ids))
    keys = CatalogueKeys(store)
    assert prices(keys.of(1, chunked("a", "b", "a", "unknown")), "a", "b", "unknown") == [1.0, 2.0, None]
    assert prices(keys.of(1, chunked("b", "unknown", "a")), "a", "b") == [1.0, 2.0]
    assert asked == [["a", "b", "unknown"]]
    write(store, Version(1, 6), world.item("b", price=3.0), world.item("unknown", price=4.0))
    assert prices(keys.of(1, chunked("b", "unknown")), "b", "unknown", "a") == [3.0, 4.0, None]
    assert prices(keys.of(1, chunked("a")), "b", "unknown", "a") == [3.0, 4.0, 1.0]


def test_each_generation_has_its_own_facts(store, monkeypatch) -> None:
    write(store, Version(1, 5), world.item("a", price=1.0))
    write(store, Version(2, 5), world.item("a", price=2.0))
    asked, read = list[int](), CatalogueKeys._read
    monkeypatch.setattr(CatalogueKeys, "_read", lambda self, g, ids: asked.append(g) or read(self, g, ids))
    keys = CatalogueKeys(store)
    assert [prices(keys.of(generation, chunked("a")), "a") for generation in (1, 2, 1)] == [[1.0], [2.0], [1.0]]
    assert asked == [1, 2]
    keys.of(3, chunked("a"))
    keys.of(2, chunked("a"))
    assert asked == [1, 2, 3, 2]  # two are remembered


def test_not_more_than_so_many_items_are_remembered(store, monkeypatch) -> None:
    monkeypatch.setattr(item_keys, "MOST_ITEMS", 2)
    write(store, Version(1, 5), *(world.item(name, price=1.0) for name in "abcd"))
    keys = CatalogueKeys(store)
    assert len(keys.of(1, chunked("a", "b")).items_N) == 2
    assert len(keys.of(1, chunked("c", "d")).items_N) == 4
    assert prices(keys.of(1, chunked("a", "b")), "a", "b", "c") == [1.0, 1.0, None]
