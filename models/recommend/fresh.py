"""A page maker with other facts and features of its items: newer ones, or those of the moments it is asked about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from features.columns import Columns
from features.definitions import ITEM_FEATURES
from features.store.base import ItemFacts
from features.values import ItemSnapshots
from features.workspace import Workspace
from models.recommend.interface import FeatureFedRanker, RetrospectiveRanker
from models.recommend.recommender import Recommender
from models.recommend.rules import CatalogueFacts


def with_fresh_items(
    recommender: Recommender, facts: Sequence[ItemFacts | None], item_features: Columns | None
) -> Recommender:
    """Return a page maker that knows newer facts and features of items, the same for service and batch.

    Args:
        recommender: The release's.
        facts: `N`, in catalogue order; None leaves what the release has.
        item_features: `N` rows, for a ranker that looks at them; None leaves what the release has.
    """
    table = _with_facts(recommender.facts.table, facts)
    ranker = recommender.ranker
    if item_features is not None and isinstance(ranker, FeatureFedRanker):
        ranker = ranker.with_item_features(item_features)
    return recommender.with_parts(facts=CatalogueFacts(table, recommender.catalogue), ranker=ranker)


def _with_facts(table: pa.Table, facts: Sequence[ItemFacts | None]) -> pa.Table:
    """Return a table with the newer facts in the rows that have some."""
    known = [fact for fact in facts if fact is not None]
    newer_N = np.array([fact is not None for fact in facts], dtype=bool)
    source_N = np.where(newer_N, table.num_rows + np.cumsum(newer_N) - 1, np.arange(table.num_rows))
    for field in dataclasses.fields(ItemFacts):
        place, kind = table.schema.get_field_index(field.name), table.schema.field(field.name)
        newer = pa.array([getattr(fact, field.name) for fact in known], kind.type)
        both = pa.concat_arrays([table[field.name].combine_chunks(), newer])
        table = table.set_column(place, kind, both.take(pa.array(source_N)))
    return table


def with_past_items(recommender: Recommender, workspace: Workspace) -> Recommender:
    """Return a page maker for requests of the past, whose ranker sees items as they were known at each request.

    The newest item features count what users did on the very pages that are to be predicted.

    Args:
        recommender: Stays as it is.
        workspace: Perhaps with the table `item_features`.
    """
    ranker = recommender.ranker
    if not isinstance(ranker, RetrospectiveRanker) or not workspace.table(ITEM_FEATURES).exists():
        return recommender
    snapshots = ItemSnapshots.load(workspace, recommender.catalogue.item_ids)
    return recommender.with_parts(ranker=ranker.with_snapshots(snapshots))
