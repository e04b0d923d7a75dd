"""Metrics of a whole run: how much of the catalogue was shown, and how unusual it was.

Legend: `B` cases, `K` ranks, `N` items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def coverage(ranked_BK: npt.NDArray[np.int64], items: int, k: int) -> float:
    """Return the share of the catalogue that at least one case got among its first `k`.

    Args:
        ranked_BK: Item numbers, best first, negative where a rank is empty.
        items: Number of items `N` in the catalogue.
        k: Ranks that count.

    Example:
        >>> coverage(np.array([[0, 1], [1, -1]]), items=4, k=2)  # items 0 and 1 of 4
        0.5
    """
    shown = ranked_BK[:, :k]
    return len(np.unique(shown[shown >= 0])) / items


def novelty(ranked_BK: npt.NDArray[np.int64], popularity_N: npt.NDArray[np.floating], k: int) -> float:
    r"""Return the mean self-information in bits of the recommended items.

    .. math:: -\operatorname{mean}_{b, r \le k} \log_2 \frac{popularity_i + 1}{\sum_j (popularity_j + 1)}

    One is added to every count, so that a new item has a finite, largest novelty.

    Args:
        ranked_BK: Item numbers, best first, negative where a rank is empty.
        popularity_N: Number of positive training events of each item.
        k: Ranks that count.

    Returns:
        Bits; NaN if nothing was recommended.

    Source: Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems", PNAS 2010.

    Example:
        Shares are 2/4, 1/4, 1/4: an item of share 1/4 carries 2 bits.

        >>> novelty(np.array([[0, 1]]), np.array([1.0, 0.0, 0.0]), k=2)  # (1 + 2) / 2
        1.5
    """
    shown = ranked_BK[:, :k]
    smoothed_N = np.asarray(popularity_N, dtype=np.float64) + 1.0
    bits_N = -np.log2(smoothed_N / smoothed_N.sum())
    values = bits_N[shown[shown >= 0]]
    return float(values.mean()) if len(values) else float("nan")
