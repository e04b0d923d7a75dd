"""Means and paired differences of all retrievers with their intervals; all of them see the same resamples.

Legend: `B` cases, `K` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from models.metrics import Interval, bootstrap_means, ranking_metrics
from models.recommend.requests import EvaluationCases
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.slices import Slice

Floats = npt.NDArray[np.float64]
Ranked = Mapping[str, npt.NDArray[np.int64]]
"""Retriever -> `[B, K]` item numbers."""
Means = dict[str, dict[str, Interval]]
"""Retriever (or baseline) -> metric -> mean over cases."""


def compare(
    ranked: Ranked, cases: EvaluationCases, config: EvaluateConfig, seed: int
) -> tuple[Means, dict[str, Means]]:
    """Return every retriever's means, and for every retriever its paired differences by baseline."""
    values = {
        name: ranking_metrics(items_BK, cases.relevant_items, cases.relevant_offsets, config.ks)
        for name, items_BK in ranked.items()
    }
    columns: dict[tuple[str, ...], Floats] = {}
    for name, of_name in values.items():
        for metric, value_B in of_name.items():
            columns[name, metric] = value_B
            for baseline in _baselines(name, ranked, config):
                columns[name, baseline, metric] = value_B - values[baseline][metric]
    means: Means = {name: {} for name in ranked}
    differences: dict[str, Means] = {
        name: {baseline: {} for baseline in _baselines(name, ranked, config)} for name in ranked
    }
    for key, interval in bootstrap_means(columns, cases.users_B, config.resamples, seed).items():
        name, metric = key[0], key[-1]
        place = means[name] if len(key) == 2 else differences[name][key[1]]
        place[metric] = interval
    return means, differences


def slice_means(ranked: Ranked, part: Slice, cases: EvaluationCases, config: EvaluateConfig, seed: int) -> Means:
    """Return every retriever's means over a slice's cases and relevant items."""
    columns: dict[tuple[str, str], Floats] = {}
    for name, items_BK in ranked.items():
        values = ranking_metrics(items_BK[part.rows], part.relevant_items, part.relevant_offsets, config.ks)
        columns |= {(name, metric): value_B for metric, value_B in values.items()}
    means: Means = {name: {} for name in ranked}
    users_B = cases.users_B[part.rows]
    for (name, metric), interval in bootstrap_means(columns, users_B, config.resamples, seed).items():
        means[name][metric] = interval
    return means


def _baselines(name: str, ranked: Ranked, config: EvaluateConfig) -> list[str]:
    return [baseline for baseline in config.baselines if baseline in ranked and baseline != name]
