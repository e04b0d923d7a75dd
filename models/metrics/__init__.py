"""Measuring ranked lists: `ranking` (one value per case), `catalogue` (one value per run), `bootstrap` (intervals).

Numpy only. One case is one page; an item counts as hit by its item number, never by its semantic ID, because an ID may
stand for several items.
"""

from models.metrics.bootstrap import Interval, bootstrap_mean, bootstrap_means, paired_bootstrap
from models.metrics.catalogue import coverage, novelty
from models.metrics.ranking import (
    DEFAULT_KS,
    hit_rate,
    hits,
    metric_key,
    metric_keys,
    ndcg,
    ranking_metrics,
    recall,
    reciprocal_rank,
)

__all__ = [
    "DEFAULT_KS",
    "Interval",
    "bootstrap_mean",
    "bootstrap_means",
    "coverage",
    "hit_rate",
    "hits",
    "metric_key",
    "metric_keys",
    "ndcg",
    "novelty",
    "paired_bootstrap",
    "ranking_metrics",
    "recall",
    "reciprocal_rank",
]
