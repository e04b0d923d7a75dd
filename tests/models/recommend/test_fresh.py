"""Newer facts and features of items in a page maker."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from recommend_cases import DAY, NOON, ListRetriever, batch, random_facts, small_catalogue, small_facts

from features.columns import Columns
from features.definitions import ITEM_FEATURES
from features.semantic_ids import Catalogue
from features.store.base import ItemFacts
from features.workspace import Workspace
from models.recommend.config import RecommendConfig
from models.recommend.fresh import with_fresh_items, with_past_items
from models.recommend.interface import NO_ITEM, RequestBatch, Snapshots
from models.recommend.recommender import Recommender

POPULAR = ListRetriever("popular", [3, 0, 1, 2, 4, 5])
UNKNOWN: list[ItemFacts | None] = [None] * 6


class TrendRanker:
    """Puts the item with the highest trend first."""

    name = "ranker"

    def __init__(self, trend_N: np.ndarray) -> None:
        self.trend_N = trend_N

    def with_item_features(self, item_features: Columns) -> TrendRanker:
        return TrendRanker(item_features.numbers["trend"])

    def score(self, requests: RequestBatch, items_BK: np.ndarray) -> np.ndarray:
        return np.where(items_BK == NO_ITEM, -np.inf, self.trend_N[items_BK]).astype(np.float32)


def maker(ranker: object = None) -> Recommender:
    config = RecommendConfig(ranker_weight=100.0)
    return Recommender(small_catalogue(), [POPULAR], config, small_facts(), ranker)


def test_newer_facts_replace_those_of_the_release():
    facts = [*UNKNOWN[:4], ItemFacts(item_id="i4", title="Atlas", available=True), None]
    fresh = with_fresh_items(maker(), facts, None)
    assert fresh.pages(batch([[0]]))[0].items == ["i3", "i1", "i2", "i4"]
    assert maker().pages(batch([[0]]))[0].items == ["i3", "i1", "i2"]
    assert fresh.facts.table.column("brand").to_pylist()[:5] == ["acme", "bolt", "acme", None, None]


@pytest.mark.parametrize("seed", range(5))
def test_facts_are_replaced_row_by_row(seed: int) -> None:
    rng, items = np.random.default_rng(seed), 30
    old = random_facts(rng, items)
    others = random_facts(rng, items).table.to_pylist()
    facts = [
        None
        if rng.random() < 0.5
        else ItemFacts(
            item_id=row["item_id"],
            title=f"new {number}",
            brand=row["brand"],
            category=tuple(row["category"] or ()),
            price=row["price"],
            available_from=None if row["available_from"] is None else int(row["available_from"].timestamp() * 1000),
            available=row["available"] is not False,
        )
        for number, row in enumerate(others)
    ]
    rows = old.table.to_pylist()
    for row, fact in zip(rows, facts, strict=True):
        row.update({} if fact is None else dataclasses.asdict(fact))
    expected = pa.Table.from_pylist(rows, old.table.schema)
    catalogue = Catalogue([f"i{n}" for n in range(items)], np.zeros((items, 1), np.int64), (1,))
    popular = ListRetriever("popular", list(range(items)))
    fresh = with_fresh_items(Recommender(catalogue, [popular], RecommendConfig(), old), facts, None)
    assert fresh.facts.table.to_pylist() == expected.to_pylist()


def test_a_ranker_gets_newer_item_features_and_keeps_the_old_without():
    old = maker(TrendRanker(np.array([0.0, 1, 2, 3, 4, 5])))
    newer = Columns(rows=6, numbers={"trend": np.array([5.0, 4, 3, 2, 1, 0], np.float32)})
    assert with_fresh_items(old, UNKNOWN, newer).pages(batch([[]]))[0].items == ["i0", "i1", "i2", "i3"]
    assert with_fresh_items(old, UNKNOWN, None).pages(batch([[]]))[0].items == ["i3", "i2", "i1", "i0"]


def test_a_ranker_that_looks_at_no_item_features_stays():
    class Plain:
        name = "ranker"
        score = TrendRanker(np.arange(6)).score

    ranker = Plain()
    newer = Columns(rows=6, numbers={"trend": np.zeros(6, np.float32)})
    assert with_fresh_items(maker(ranker), UNKNOWN, newer).ranker is ranker


class ClickedRanker:
    """Puts the item with the most clicks by the moment of the request first."""

    name = "ranker"

    def __init__(self, snapshots: Snapshots | None = None) -> None:
        self.snapshots = snapshots

    def with_snapshots(self, snapshots: Snapshots) -> ClickedRanker:
        return ClickedRanker(snapshots)

    def score(self, requests: RequestBatch, items_BK: np.ndarray) -> np.ndarray:
        if self.snapshots is None:
            return np.where(items_BK == NO_ITEM, -np.inf, 0).astype(np.float32)
        times_BK = np.repeat(requests.times_B[:, None], items_BK.shape[1], axis=1)
        known = self.snapshots.at(items_BK.reshape(-1), times_BK.reshape(-1))
        return np.where(items_BK == NO_ITEM, -np.inf, known.numbers["item_clicks_1d"].reshape(items_BK.shape))


def test_requests_of_the_past_see_items_as_they_were_then(tmp_path: Path) -> None:
    """Item 2 was clicked on the day before, item 1 on the very day, after the request or before: nobody knows yet."""
    workspace, midnight = Workspace(tmp_path), NOON // DAY * DAY
    table = workspace.table(ITEM_FEATURES)
    clicked = [("i1", midnight + DAY, 9.0), ("i2", midnight, 5.0)]
    rows = [{"item_id": item, "as_of": as_of, "item_clicks_1d": clicks} for item, as_of, clicks in clicked]
    table.commit([table.write_part(pa.Table.from_pylist(rows, table.schema), shard=0)])
    now = maker(ClickedRanker())
    past = with_past_items(now, workspace)
    assert past.pages(batch([[]]))[0].items == ["i2", "i3", "i0", "i1"]
    tomorrow = dataclasses.replace(batch([[]]), times_B=np.array([NOON + DAY]))
    assert past.pages(tomorrow)[0].items[:2] == ["i1", "i2"]
    assert now.pages(batch([[]]))[0].items == ["i3", "i0", "i1", "i2"]


def test_without_snapshots_nothing_changes(tmp_path: Path) -> None:
    for ranker in (None, ClickedRanker()):
        given = maker(ranker)
        assert with_past_items(given, Workspace(tmp_path)) is given
