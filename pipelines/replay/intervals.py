"""Intervals from sums by bucket: linearised, cluster bootstrap, always-valid.

Legend: `G` buckets of users with pages (clusters), `S` resamples, `E` estimates, `C` sums.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from pipelines.replay.rounds import Floats

PLANNED_USERS = 10_000
"""Where the always-valid interval is narrowest against the fixed one; its validity does not depend on it."""


def standard_error(influence_EG: Floats) -> Floats:
    """Return the cluster-robust standard error of each estimate, `[E]`, inf for a single cluster.

    `sqrt(G / (G - 1) sum_g (u_g - mean u)^2)`, where `u_g` is the first-order effect of cluster g on the estimate (its
    share of the sum that the estimate is, or of its linearisation): Liang and Zeger 1986, with the small-sample factor.
    """
    clusters = influence_EG.shape[1]
    if clusters < 2:
        return np.full(len(influence_EG), np.inf)
    return np.asarray(np.sqrt(clusters * influence_EG.var(axis=1, ddof=1)))


def student_quantile(clusters: int, confidence: float) -> float:
    """Return the two-sided quantile of Student's t at `clusters - 1` degrees of freedom, inf for one cluster."""
    return float(stats.t.ppf((1 + confidence) / 2, clusters - 1)) if clusters > 1 else math.inf


def linearised_reach(influence_EG: Floats, errors_E: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Return how far the deciding interval reaches below and above each estimate, both `[E]`.

    It is the smallest interval that holds two others. One is Student's, `t se` to both sides. The other follows the
    skewness that rare rewards and heavy weights give: bounds of the studentised estimate are transformed to be normal
    but for terms of order 1/G (Hall 1992, On the removal of skewness by transformation), with `g`, the skewness of the
    sum, from the clusters: `T(x) = 3 / g ((1 + g (x - g / 6))^(1/3) - 1)`. Student's alone misses a true difference in
    the long tail two to three times as often as it says; the other has balanced tails, but trusts its estimate of the
    skewness, which is too small where the largest weights have not come up yet. Without skewness they are the same.

    Args:
        influence_EG: First-order effect of each cluster, its sum over clusters 0.
        errors_E: The standard errors; where one is 0 or infinite, so is the reach.
        confidence: Of the interval, two-sided.
    """
    if influence_EG.shape[1] < 2:
        return np.full(len(errors_E), math.inf), np.full(len(errors_E), math.inf)
    quantile = student_quantile(influence_EG.shape[1], confidence)
    squares_E = np.square(influence_EG).sum(axis=1)
    cubes_E = (influence_EG * np.square(influence_EG)).sum(axis=1)
    skewness_E = np.divide(cubes_E, squares_E**1.5, out=np.zeros_like(cubes_E), where=squares_E > 0)
    below_E = np.maximum(_without_skewness(quantile, skewness_E), quantile)
    above_E = np.maximum(-_without_skewness(-quantile, skewness_E), quantile)
    return below_E * errors_E, above_E * errors_E


def _without_skewness(quantile: float, skewness_E: Floats) -> Floats:
    """Return the quantile of a studentised sum of this skewness whose normal quantile is given, `[E]`."""
    skewness_E = np.where(np.abs(skewness_E) < 1e-6, 1e-6, skewness_E)
    return np.asarray(3 / skewness_E * (np.cbrt(1 + skewness_E * (quantile - skewness_E / 6)) - 1))


def resample_counts(clusters: int, resamples: int, seed: int) -> Floats:
    """Return how often each cluster is drawn in each bootstrap resample of as many clusters, `[S, G]`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def studentised_reach(
    influence_EG: Floats, errors_E: Floats, counts_SG: Floats, confidence: float
) -> tuple[Floats, Floats]:
    """Return how far the studentised bootstrap's interval reaches below and above each estimate, both `[E]`.

    Quantiles of `(resampled estimate - estimate) / resampled standard error` take the place of Student's: the interval
    follows the skewness that rare rewards and heavy weights give (Hall 1988, Theoretical comparison of bootstrap
    confidence intervals).

    Args:
        influence_EG: First-order effect of each cluster, its sum over clusters 0.
        errors_E: The standard errors.
        counts_SG: How often each cluster is drawn in each resample.
        confidence: Of the interval, two-sided.
    """
    clusters = counts_SG.shape[1]
    if clusters < 2:
        return np.full(len(errors_E), math.inf), np.full(len(errors_E), math.inf)
    drawn_SE = counts_SG @ influence_EG.T
    squares_SE = counts_SG @ np.square(influence_EG).T
    variance_SE = np.maximum(squares_SE - np.square(drawn_SE) / clusters, 0.0) * clusters / (clusters - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_SE = np.where(variance_SE > 0, drawn_SE / np.sqrt(variance_SE), 0.0)
    low_E, high_E = np.quantile(t_SE, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return high_E * errors_E, -low_E * errors_E


def always_valid_factor(users: int, confidence: float, planned_users: int = PLANNED_USERS) -> float:
    """Return the half-width of the always-valid interval, in standard deviations of one user.

    `sqrt(2 (t rho^2 + 1) / (t^2 rho^2) ln(sqrt(t rho^2 + 1) / alpha))` after `t` users, an asymptotic confidence
    sequence (Waudby-Smith et al. 2021, arXiv 2103.06476): it covers the truth at all looks at once, however often and
    whenever one looks.

    Args:
        users: `t`, at least 1.
        confidence: `1 - alpha`.
        planned_users: Number of users for which `rho` makes it narrowest.

    Example:
        >>> round(always_valid_factor(10_000, 0.95), 6)
        0.030354
    """
    alpha = 1 - confidence
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / planned_users
    scaled = users * rho2 + 1
    return math.sqrt(2 * scaled / (users * users * rho2) * math.log(math.sqrt(scaled) / alpha))
