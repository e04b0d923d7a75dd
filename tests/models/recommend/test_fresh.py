"""Newer facts and features of items in a page maker."""

from __future__ import annotations

import numpy as np
from recommend_cases import ListRetriever, batch, small_catalogue, small_facts

from features.columns import Columns
from features.store.base import ItemFacts
from models.recommend.config import RecommendConfig
from models.recommend.fresh import with_fresh_items
from models.recommend.interface import NO_ITEM, RequestBatch
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
