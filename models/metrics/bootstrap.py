"""Percentile intervals for means, resampling users: pages of one user are not independent.

Legend: `B` cases, `M` metrics, `U` users, `R` resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Key = TypeVar("Key", bound=Hashable)
Floats = npt.NDArray[np.float64]

_CELLS_PER_BLOCK = 4_000_000
"""Draws (users x resamples) held in memory at a time."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95 % percentile interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values_B: npt.ArrayLike, users_B: npt.ArrayLike, resamples: int, seed: int) -> Interval:
    """Return the mean over cases and its 95 % interval under resampling of users.

    Each resample draws `U` users with replacement; its mean is `sum of their values / number of their cases`.

    Args:
        values_B: One value per case.
        users_B: Number or id of each case's user.
        resamples: Number of resamples `R`.
        seed: Of the draws.

    Raises:
        ValueError: No case, or lengths differ.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).

    Example:
        >>> bootstrap_mean([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], resamples=1000, seed=0)
        Interval(mean=0.5, low=0.0, high=1.0)
    """
    return bootstrap_means({"value": values_B}, users_B, resamples, seed)["value"]


def paired_bootstrap(
    values_a_B: npt.ArrayLike, values_b_B: npt.ArrayLike, users_B: npt.ArrayLike, resamples: int, seed: int
) -> Interval:
    """Return the mean of `a - b` on the same cases and its 95 % interval; `a` is better if it lies above 0.

    Both see the same resamples, so what makes a user easy or hard for both cancels.

    Example:
        >>> paired_bootstrap([0.5, 1.0], [0.25, 0.75], ["u", "v"], resamples=100, seed=0)
        Interval(mean=0.25, low=0.25, high=0.25)
    """
    a_B, b_B = np.asarray(values_a_B, dtype=np.float64), np.asarray(values_b_B, dtype=np.float64)
    if a_B.shape != b_B.shape:
        raise ValueError(f"expected values of the same cases, got {a_B.shape[0]} and {b_B.shape[0]}")
    return bootstrap_mean(a_B - b_B, users_B, resamples, seed)


def bootstrap_means(
    values: Mapping[Key, npt.ArrayLike], users_B: npt.ArrayLike, resamples: int, seed: int
) -> dict[Key, Interval]:
    """`bootstrap_mean` of many metrics at once; all of them see the same resamples.

    Args:
        values: Any key -> `[B]` values.
        users_B: Number or id of each case's user.
        resamples: Number of resamples `R`.
        seed: Of the draws.
    """
    columns_MB = [np.asarray(column, dtype=np.float64) for column in values.values()]
    users, user_of_case_B = np.unique(np.asarray(users_B), return_inverse=True)
    if not len(users) or any(column.shape != user_of_case_B.shape for column in columns_MB):
        shapes = {name: column.shape for name, column in zip(values, columns_MB, strict=True)}
        raise ValueError(f"expected at least one case and one value per case of users_B, got {shapes}")
    sums_UM: Floats = np.stack([np.bincount(user_of_case_B, column) for column in columns_MB], axis=1).astype(
        np.float64
    )
    cases_U: Floats = np.bincount(user_of_case_B).astype(np.float64)
    means_RM = _resampled_means(sums_UM, cases_U, resamples, np.random.default_rng(seed))
    low_M, high_M = np.percentile(means_RM, [2.5, 97.5], axis=0)
    mean_M = sums_UM.sum(axis=0) / cases_U.sum()
    return {
        name: Interval(float(mean), float(low), float(high))
        for name, mean, low, high in zip(values, mean_M, low_M, high_M, strict=True)
    }


def _resampled_means(sums_UM: Floats, cases_U: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    users = len(cases_U)
    table = np.column_stack([sums_UM, cases_U])
    block = max(1, _CELLS_PER_BLOCK // users)
    means = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(users, size=(rows, users)) + np.arange(rows)[:, None] * users
        times_drawn_RU = np.bincount(drawn.reshape(-1), minlength=rows * users).reshape(rows, users)
        totals = times_drawn_RU.astype(np.float64) @ table
        means.append(totals[:, :-1] / totals[:, -1:])
    return np.concatenate(means)
