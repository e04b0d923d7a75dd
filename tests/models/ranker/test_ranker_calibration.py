"""Calibration by arithmetic, and the correction of drawn negatives."""

import numpy as np
import pytest
import torch

from models.ranker.calibration import Calibration, sigmoid
from models.ranker.loss import head_losses
from models.ranker.measure import METRICS, calibrate, metrics, platt


def repeated(*groups):
    """(logit, examples, positives) of groups -> logits and labels."""
    logit = np.concatenate([np.full(count, value) for value, count, _ in groups])
    label = np.concatenate([np.arange(count) < positives for _, count, positives in groups]).astype(np.float64)
    return logit, label


def test_two_groups_are_fitted_exactly():
    # observed log-odds: log(1/3) at logit -2, log(3) at logit 2: slope log(3)/2, intercept 0
    logit, label = repeated((-2.0, 400, 100), (2.0, 400, 300))
    slope, intercept = platt(logit, label, np.zeros(800))
    assert slope == pytest.approx(np.log(3) / 2, abs=1e-4)
    assert intercept == pytest.approx(0, abs=1e-4)


def test_drawn_negatives_are_put_right():
    # one in ten negatives is drawn: 100 positives and 90 of 900 negatives; among all the odds are 1/9
    logit, label = repeated((0.0, 190, 100), (1.0, 190, 100))
    rate = np.full(380, np.log(0.1))
    slope, intercept = platt(logit, label, rate)
    calibration = Calibration(slopes=(slope,) * 3, intercepts=(intercept,) * 3)
    everybody = calibration.probabilities(np.zeros((1, 3)))
    assert everybody[0, 0] == pytest.approx(100 / 1000, abs=1e-3)
    drawn = calibration.probabilities(np.zeros((1, 3)), np.log([0.1]))
    assert drawn[0, 0] == pytest.approx(100 / 190, abs=1e-3)


def test_labels_all_alike_change_nothing():
    assert platt(np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)) == (1.0, 0.0)


def test_order_is_kept_even_where_predictions_are_worse_than_none():
    logit, label = repeated((-1.0, 100, 80), (1.0, 100, 20))
    slope, _ = platt(logit, label, np.zeros(200))
    assert slope > 0


def test_halves_of_pages_are_calibrated_by_each_other():
    rng = np.random.default_rng(0)
    truth = rng.normal(-1, 1, 20_000)
    label_RH = (rng.random((20_000, 3)) < sigmoid(truth)[:, None]).astype(np.float32)
    logit_RH = np.repeat((3 * truth + 1)[:, None], 3, axis=1)
    fitted, heads = calibrate(logit_RH, label_RH, np.zeros(20_000), np.full(2000, 10))
    np.testing.assert_allclose(fitted.slopes, 1 / 3, rtol=0.05)
    np.testing.assert_allclose(fitted.intercepts, -1 / 3, atol=0.05)
    for head in heads:
        assert head.error_after < 0.2 * head.error
        assert head.ratio_after == pytest.approx(1, abs=0.03)
        assert head.logloss_after < head.logloss
    assert heads[0].line().startswith("click: AUC 0.")


def test_metrics_have_their_names_and_know_no_auc_of_labels_all_alike():
    values = metrics(np.zeros((4, 3)), np.array([[1, 0, 0], [0, 0, 0]] * 2, np.float32), np.zeros(4))
    assert tuple(values) == METRICS
    assert (values["auc"], values["calibration"]) == (0.5, 1.0)
    assert np.isnan(values["auc_purchase"])


def test_loss_by_hand():
    logit_RH, label_RH = torch.zeros(2, 3), torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    loss, told = head_losses(logit_RH, label_RH, torch.tensor([0.0, np.log(0.5)]), torch.tensor([1.0, 0.5, 0.0]), 0.5)
    # the drawn row's odds are 2: -log(1/3) = log 3; the other row's log 2
    mean = (np.log(2) + np.log(3)) / 2
    assert float(told["loss_click"]) == pytest.approx(mean)
    assert float(loss) == pytest.approx(1.5 * mean)
