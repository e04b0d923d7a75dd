"""AUC, log loss and calibration: by hand, against scikit-learn, and edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from models.metrics.binary import auc, calibration_ratio, expected_calibration_error, log_loss


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 20))
def test_equal_scikit_learn_with_ties(seed, levels):
    rng = np.random.default_rng(seed)
    label = np.array([0, 1, *rng.integers(0, 2, 30)])
    probability = rng.integers(1, levels + 1, len(label)) / (levels + 2)
    assert auc(probability, label) == pytest.approx(peer.roc_auc_score(label, probability))
    assert log_loss(probability, label) == pytest.approx(peer.log_loss(label, probability))


def test_by_hand():
    assert auc([0.2, 0.4, 0.4, 0.8], [0, 1, 0, 1]) == (1 + 1 / 2 + 1 + 1) / 4
    assert log_loss([0.25, 0.5], [0, 1]) == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)
    assert calibration_ratio([0.6, 0.9, 0.5], [1, 0, 0]) == pytest.approx(2.0)
    assert expected_calibration_error([0.9, 0.1, 0.2, 0.8], [1, 0, 1, 1], bins=2) == pytest.approx(
        (abs(0.15 - 0.5) + abs(0.85 - 1.0)) / 2
    )


def test_a_sure_mistake_is_finite():
    assert log_loss([1.0], [0]) == pytest.approx(-np.log(1e-7))


def test_predictions_drawn_from_their_probabilities_are_calibrated():
    rng = np.random.default_rng(1)
    probability = rng.random(200_000)
    label = rng.random(200_000) < probability
    assert calibration_ratio(probability, label) == pytest.approx(1, abs=0.01)
    assert expected_calibration_error(probability, label) < 0.01
    assert expected_calibration_error(probability**2, label) > 0.1


def test_no_positives():
    assert calibration_ratio([0.5], [0]) == float("inf")
    with pytest.raises(ValueError, match="got 0 and 2"):
        auc([0.5, 0.5], [0, 0])
