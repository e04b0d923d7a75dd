"""Ranking metrics with one value per case, so that their means can be bootstrapped and compared pairwise.

Legend: `B` cases, `K` ranks, `R` relevant items of all cases. Relevant items are jagged::

    relevant_items   [ 7 3 | 5 | 2 ]     case b owns entries offsets[b]:offsets[b + 1]
    relevant_offsets [ 0 2 3 4 ]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DEFAULT_KS: tuple[int, ...] = (1, 5, 10, 50)
HR, RECALL, NDCG, MRR = "hr", "recall", "ndcg", "mrr"


def metric_key(name: str, k: int) -> str:
    """Return the name under which a metric is logged everywhere; MLflow accepts it.

    Example:
        >>> metric_key("hr", 10)
        'hr_at_10'
    """
    return f"{name}_at_{k}"


def metric_keys(ks: Sequence[int] = DEFAULT_KS) -> tuple[str, ...]:
    """Return the names of all that `ranking_metrics` returns.

    Example:
        >>> metric_keys((1,))
        ('hr_at_1', 'recall_at_1', 'ndcg_at_1', 'mrr_at_1')
    """
    return tuple(metric_key(name, k) for k in ks for name in (HR, RECALL, NDCG, MRR))


def hits(ranked_BK: Ints, relevant_items: Ints, relevant_offsets: Ints) -> Bools:
    """Mark the ranks that hold a relevant item, by item number.

    Args:
        ranked_BK: Item numbers, best first; a negative number (`NO_ITEM`) is an empty rank and never a hit.
        relevant_items: `R` item numbers, distinct within a case.
        relevant_offsets: `B + 1` offsets; every case has at least one relevant item.

    Returns:
        `[B, K]` booleans.

    Raises:
        ValueError: An item is ranked twice for a case, a case has no relevant item or has one twice.

    Example:
        >>> hits(np.array([[4, 7, 3], [5, 9, -1]]), np.array([7, 3, 9]), np.array([0, 2, 3])).tolist()
        [[False, True, True], [False, True, False]]
    """
    _check_relevant(ranked_BK, relevant_items, relevant_offsets)
    _check_distinct(ranked_BK)
    span = int(max(ranked_BK.max(initial=0), relevant_items.max(initial=0))) + 1
    cases_R = np.repeat(np.arange(len(ranked_BK)), np.diff(relevant_offsets))
    relevant_R = cases_R * span + relevant_items
    if len(np.unique(relevant_R)) != len(relevant_R):
        raise ValueError("relevant_items: expected distinct items within a case, got an item twice; deduplicate them")
    ranked_keys_BK = np.arange(len(ranked_BK))[:, None] * span + ranked_BK
    found_BK: Bools = np.isin(ranked_keys_BK, relevant_R) & (ranked_BK >= 0)
    return found_BK


def hit_rate(hits_BK: Bools, k: int) -> Floats:
    """Return `HR@k`, 1 where any of the first `k` ranks is a hit, else 0.

    Example:
        >>> hit_rate(np.array([[False, True], [False, False]]), 2).tolist()
        [1.0, 0.0]
    """
    return np.asarray(hits_BK[:, :k].any(axis=1), dtype=np.float64)


def recall(hits_BK: Bools, relevant_B: Ints, k: int) -> Floats:
    """Return `recall@k = hits among the first k / number of relevant items`.

    Args:
        hits_BK: What `hits` returns.
        relevant_B: Number of relevant items per case.
        k: Ranks that count.

    Example:
        >>> recall(np.array([[False, True, True]]), np.array([4]), 3).tolist()  # 2 of 4
        [0.5]
    """
    found_B = hits_BK[:, :k].sum(axis=1).astype(np.float64)
    return found_B / relevant_B


def ndcg(hits_BK: Bools, relevant_B: Ints, k: int) -> Floats:
    r"""Return the binary normalised discounted cumulative gain.

    .. math:: NDCG@k = \sum_{r=1}^{k} \frac{hit_r}{\log_2(r+1)} \Big/ \sum_{r=1}^{\min(k, R_b)} \frac{1}{\log_2(r+1)}

    The denominator is the best possible page: `min(k, relevant)` hits on the first ranks.

    Example:
        One relevant item on rank 3 of 3: `(1 / log2(4)) / (1 / log2(2)) = 1/2`.

        >>> ndcg(np.array([[False, False, True]]), np.array([1]), 3).tolist()
        [0.5]
    """
    discounts_K = 1.0 / np.log2(np.arange(k) + 2.0)
    ideal_B = np.cumsum(discounts_K)[np.minimum(relevant_B, k) - 1]
    gained_BK = hits_BK[:, :k]
    gain_B: Floats = gained_BK @ discounts_K[: gained_BK.shape[1]] / ideal_B
    return gain_B


def reciprocal_rank(hits_BK: Bools, k: int) -> Floats:
    """Return `1 / rank of the first hit`, 0 where none of the first `k` ranks is one; its mean is MRR@k.

    Example:
        >>> reciprocal_rank(np.array([[False, True, True], [False, False, True]]), 2).tolist()
        [0.5, 0.0]
    """
    within_BK = hits_BK[:, :k]
    return np.where(within_BK.any(axis=1), 1.0 / (within_BK.argmax(axis=1) + 1.0), 0.0)


def ranking_metrics(
    ranked_BK: Ints, relevant_items: Ints, relevant_offsets: Ints, ks: Sequence[int] = DEFAULT_KS
) -> dict[str, Floats]:
    """Return every metric at every `k`, one value per case.

    Args:
        ranked_BK: Item numbers, best first, at least `max(ks)` ranks.
        relevant_items: `R` item numbers, jagged by case.
        relevant_offsets: `B + 1` offsets.
        ks: Ranks at which to cut.

    Returns:
        `{"hr_at_1": [B], "recall_at_1": [B], "ndcg_at_1": [B], "mrr_at_1": [B], "hr_at_5": ...}`.

    Raises:
        ValueError: The lists are shorter than the largest `k`, or what `hits` refuses.

    Example:
        >>> values = ranking_metrics(np.array([[4, 7]]), np.array([7]), np.array([0, 1]), ks=(1, 2))
        >>> {key: value.tolist() for key, value in values.items() if key.startswith("hr")}
        {'hr_at_1': [0.0], 'hr_at_2': [1.0]}
    """
    if not ks or min(ks) < 1 or max(ks) > ranked_BK.shape[1]:
        raise ValueError(f"ks: expected numbers from 1 to {ranked_BK.shape[1]} (the ranks given), got {tuple(ks)}")
    hits_BK = hits(ranked_BK, relevant_items, relevant_offsets)
    relevant_B = np.diff(relevant_offsets)
    values: dict[str, Floats] = {}
    for k in ks:
        values[metric_key(HR, k)] = hit_rate(hits_BK, k)
        values[metric_key(RECALL, k)] = recall(hits_BK, relevant_B, k)
        values[metric_key(NDCG, k)] = ndcg(hits_BK, relevant_B, k)
        values[metric_key(MRR, k)] = reciprocal_rank(hits_BK, k)
    return values


def _check_relevant(ranked_BK: Ints, relevant_items: Ints, relevant_offsets: Ints) -> None:
    sizes = np.diff(relevant_offsets)
    if len(sizes) != len(ranked_BK) or relevant_offsets[-1] != len(relevant_items):
        raise ValueError(
            f"relevant_offsets: expected {len(ranked_BK) + 1} offsets ending at {len(relevant_items)}, "
            f"got {len(relevant_offsets)} ending at {relevant_offsets[-1]}"
        )
    if (sizes < 1).any():
        raise ValueError(f"case {int((sizes < 1).argmax())} has no relevant item; leave such pages out of the cases")


def _check_distinct(ranked_BK: Ints) -> None:
    sorted_BK = np.sort(ranked_BK, axis=1)
    twice_BK = (sorted_BK[:, 1:] == sorted_BK[:, :-1]) & (sorted_BK[:, 1:] >= 0)
    if twice_BK.any():
        case, rank = np.argwhere(twice_BK)[0]
        raise ValueError(
            f"case {case} ranks item {sorted_BK[case, rank]} twice; a retriever must return distinct items"
        )
