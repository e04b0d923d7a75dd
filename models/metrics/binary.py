"""Metrics of predicted probabilities of a yes or no: AUC, log loss, calibration.

Legend: `E` examples. Probabilities are float, labels 0 or 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LEAST = 1e-7
"""Probabilities are kept this far from 0 and 1 by `log_loss`, so that one sure mistake does not make it infinite."""


def auc(probability_E: npt.ArrayLike, label_E: npt.ArrayLike) -> float:
    """Return how often a positive is ranked above a negative, ties counting one half.

    Raises:
        ValueError: The labels are all alike.

    Example:
        >>> auc([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0])  # (1 + 1 + 1/2 + 1) / 4
        0.875
    """
    positive_E = np.asarray(label_E) > 0
    positives = int(positive_E.sum())
    negatives = len(positive_E) - positives
    if not positives or not negatives:
        raise ValueError(f"auc: expected positives and negatives, got {positives} and {negatives}")
    _, level_E, counts = np.unique(np.asarray(probability_E), return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks = float(mean_ranks[level_E][positive_E].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(probability_E: npt.ArrayLike, label_E: npt.ArrayLike) -> float:
    """Return the mean of `-log` of the probability given to what happened, in nats.

    Example:
        >>> log_loss([0.5, 0.5], [1, 0]) == float(np.log(2))
        True
    """
    probability = np.clip(np.asarray(probability_E, dtype=np.float64), _LEAST, 1 - _LEAST)
    return float(-np.log(np.where(np.asarray(label_E) > 0, probability, 1 - probability)).mean())


def calibration_ratio(probability_E: npt.ArrayLike, label_E: npt.ArrayLike) -> float:
    """Return predicted over observed positives; 1 is right, 2 promises twice as many as come.

    Example:
        >>> calibration_ratio([0.5, 0.25, 0.25], [1, 0, 1])
        0.5
    """
    observed = float(np.sum(np.asarray(label_E)))
    return float(np.sum(np.asarray(probability_E, dtype=np.float64))) / observed if observed else float("inf")


def expected_calibration_error(probability_E: npt.ArrayLike, label_E: npt.ArrayLike, bins: int = 20) -> float:
    """Return the mean distance of predicted and observed rate over bins of equally many examples.

    `sum_b n_b / E * |mean probability of b - mean label of b|`, the examples sorted by probability before they are cut
    into `bins` (Naeini et al., AAAI 2015, with the equal-mass bins of Nguyen and O'Connor, EMNLP 2015).

    Example:
        >>> expected_calibration_error([0.25, 0.25, 0.75, 0.75], [0, 0, 1, 0], bins=2)  # (|1/4 - 0| + |3/4 - 1/2|) / 2
        0.25
    """
    probability, label = np.asarray(probability_E, dtype=np.float64), np.asarray(label_E, dtype=np.float64)
    order = np.argsort(probability, kind="stable")
    gaps = [abs(float((probability[part] - label[part]).sum())) for part in np.array_split(order, bins)]
    return sum(gaps) / len(order)
