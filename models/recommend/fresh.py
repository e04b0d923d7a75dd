"""A release's page maker with newer facts and features of its items; the same for service and batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from features.columns import Columns
from features.store.base import ItemFacts
from models.recommend.interface import FeatureFedRanker
from models.recommend.recommender import Recommender
from models.recommend.rules import CatalogueFacts


def with_fresh_items(
    recommender: Recommender, facts: Sequence[ItemFacts | None], item_features: Columns | None
) -> Recommender:
    """Return a page maker that knows newer facts and features of items; the given one stays as it is.

    Args:
        recommender: The release's.
        facts: `N`, in catalogue order; None leaves what the release has.
        item_features: `N` rows, for a ranker that looks at them; None leaves what the release has.
    """
    rows = recommender.facts.table.to_pylist()
    for row, fact in zip(rows, facts, strict=True):
        if fact is not None:
            row.update(dataclasses.asdict(fact))
    table = pa.Table.from_pylist(rows, recommender.facts.table.schema)
    ranker = recommender.ranker
    if item_features is not None and isinstance(ranker, FeatureFedRanker):
        ranker = ranker.with_item_features(item_features)
    retrievers = list(recommender.retrievers.values())
    newer = CatalogueFacts(table, recommender.catalogue)
    return Recommender(recommender.catalogue, retrievers, recommender.config, newer, ranker)
