"""Whether a feature's values are spread as they were: the population stability index over fixed bins.

`PSI = sum over bins (p - q) * ln(p / q)`, where `p` and `q` are the shares of two samples in a bin: what credit scoring
calls so (N. Siddiqi, Credit Risk Scorecards, Wiley 2006, chapter 8), and Kullback and Leibler (On information and
sufficiency, 1951) a divergence, taken in both directions. Half a row is added to every bin that either sample has, so
that an empty bin counts much, but not without end.

Without drift, `PSI / (1 / n + 1 / m)` of samples of `n` and `m` rows is about chi-squared with one degree of freedom
less than bins (B. Yurdakul and J. Naranjo, Statistical properties of the population stability index, Journal of Risk
Model Validation 14(4), 2020): small samples differ by chance, `chance` says by how much.
Legend: `R` rows, `B` bins.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from features.columns import Columns
from features.definitions import Feature
from features.folds import NUMBER, WEIGHTS

LOWEST, HIGHEST = -5, 14
"""Powers of two: smaller and larger amounts share the outermost bins."""
BINS = 2 + 2 * (HIGHEST - LOWEST + 1)
"""Unknown, zero, and from each power of two to the next, above and below zero."""
_DEVIATIONS = 3.0

Counts = npt.NDArray[np.int64]


def bins_of(values: npt.NDArray[np.floating]) -> Counts:
    """Return the bin of each value, `[R]` in and out: the same whatever the data.

    Example:
        >>> bins_of(np.array([np.nan, 0.0, 1.0, 1.9, 2.0, -1.0])).tolist()
        [0, 1, 7, 7, 8, 27]
    """
    amounts = np.abs(np.nan_to_num(values.astype(np.float64)))
    powers = np.floor(np.log2(np.where(amounts > 0, amounts, 1.0)))
    steps = (np.clip(powers, LOWEST, HIGHEST) - LOWEST).astype(np.int64)
    signed = 2 + steps + (values < 0) * (HIGHEST - LOWEST + 1)
    return np.where(np.isnan(values), 0, np.where(amounts > 0, signed, 1))


def histogram(feature: Feature, values: Columns) -> Counts:
    """Return the rows in each bin, `[B]`: of a number itself, of ids by how many, of weights by their sum."""
    if feature.kind == NUMBER:
        amounts: npt.NDArray[np.floating] = values.numbers[feature.name]
    else:
        column = values.ids[feature.name]
        rows = np.repeat(np.arange(len(column)), np.diff(column.offsets))
        weights = column.weights if feature.kind == WEIGHTS else None
        amounts = np.bincount(rows, weights=weights, minlength=len(column)).astype(np.float64)
    return np.bincount(bins_of(amounts), minlength=BINS)


def stability_index(served_B: Counts, trained_B: Counts) -> float:
    """Return the index of two histograms; 0 where one of them is empty.

    Example:
        >>> round(stability_index(np.array([90, 10]), np.array([50, 50])), 3)
        0.853
    """
    used = (served_B > 0) | (trained_B > 0)
    if not served_B.sum() or not trained_B.sum():
        return 0.0
    p, q = ((counts[used] + 0.5) / (counts.sum() + 0.5 * used.sum()) for counts in (served_B, trained_B))
    return float(((p - q) * np.log(p / q)).sum())


def chance(served_B: Counts, trained_B: Counts) -> float:
    """Return what the index hardly ever exceeds without drift: its mean and three standard deviations more."""
    freedom = int(((served_B > 0) | (trained_B > 0)).sum()) - 1
    scale = 1 / max(int(served_B.sum()), 1) + 1 / max(int(trained_B.sum()), 1)
    return scale * (freedom + _DEVIATIONS * math.sqrt(2 * max(freedom, 0)))
