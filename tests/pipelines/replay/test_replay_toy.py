"""Hand-size arrays: every estimator's value as published, to 1e-8; numbers of Open Bandit Pipeline 0.5.7."""

from __future__ import annotations

import numpy as np
import pytest
from obp_twins import MIPS, SLATES, judged, name_of, of_one_item
from replay_worlds import chances, rounds_of, target

from pipelines.replay.estimators import Ips, Rejection
from pipelines.replay.estimators.interface import Estimator
from pipelines.replay.rounds import Rounds

ACTIONS = np.array([0, 1, 2, 0, 1, 2])
REWARDS = np.array([1.0, 0, 1, 0, 1, 1])
LOGGED = np.array([0.5, 0.3, 0.2, 0.6, 0.25, 0.1])
POLICY = np.array(
    [[0.2, 0.5, 0.3], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2], [0.25, 0.5, 0.25], [0.4, 0.1, 0.5]]
)
PREDICTED = np.array(
    [[0.6, 0.3, 0.4], [0.5, 0.2, 0.7], [0.1, 0.9, 0.5], [0.4, 0.4, 0.4], [0.3, 0.6, 0.2], [0.2, 0.2, 0.8]]
)
CLUSTER_LOGGED = np.array([0.8, 0.8, 0.2, 0.9, 0.85, 0.1])
CLUSTER_POLICY = np.array([0.7, 0.8, 0.4, 0.8, 0.75, 0.5])
GREEDY = np.array([0, 0, 2, 0, 1, 1])

SLATE_REWARDS = np.array([[1.0, 0, 1], [0, 0, 1], [1, 1, 0]])
POSITION = ([[0.5, 0.4, 0.3], [0.2, 0.5, 0.6], [0.7, 0.3, 0.2]], [[0.6, 0.2, 0.5], [0.4, 0.5, 0.3], [0.5, 0.6, 0.4]])
CASCADE = (
    np.array([[0.5, 0.2, 0.06], [0.2, 0.1, 0.06], [0.7, 0.21, 0.042]]),
    np.array([[0.6, 0.12, 0.06], [0.4, 0.2, 0.06], [0.5, 0.3, 0.12]]),
)
SLATE_ACTIONS = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 1]])
SLATE_PREDICTED = np.linspace(0.1, 0.9, 18).reshape(3, 3, 2)

ONE_ITEM = (*of_one_item(clip=2.0, limit=2.0), MIPS, Rejection())
OF_ONE_ITEM = (
    1.5666666667, 1.0666666667, 0.7382198953, 0.4241666667, 0.7730555556, 0.6841666667,
    0.5885645724, 0.6841666667, 0.4958637369, 0.8174603175, 1.4595588235, 0.75,
)  # fmt: skip
OF_SLATES = (
    2.9047619048, 2.0269841270, 1.7809523810, 1.7941176471, 1.5804796663, 1.2554257299, 1.2812661064,
)  # fmt: skip


def test_the_policys_ips_weights_make_the_published_effective_sample_size() -> None:
    weights = POLICY[np.arange(6), ACTIONS] / LOGGED
    np.testing.assert_allclose(weights, [0.4, 7 / 3, 2, 1, 2, 5])
    estimate = judged(Ips(), toy())
    assert estimate.mean_weight_b == pytest.approx(weights.mean(), abs=1e-12)
    assert weights.sum() ** 2 / (weights**2).sum() == pytest.approx(4.0939288520, abs=1e-9)
    assert estimate.effective_users_b == pytest.approx(4.0939288520, rel=0.02), "few users, nearly all buckets empty"


@pytest.mark.parametrize(("estimator", "expected"), list(zip(ONE_ITEM, OF_ONE_ITEM, strict=True)), ids=name_of)
def test_pages_of_one_item_have_the_published_values(estimator: Estimator, expected: float) -> None:
    assert judged(estimator, toy()).value_b == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("estimator", "expected"), list(zip(SLATES, OF_SLATES, strict=True)), ids=name_of)
def test_slates_have_the_published_values(estimator: Estimator, expected: float) -> None:
    assert judged(estimator, slates()).value_b == pytest.approx(expected, abs=1e-8)


def toy() -> Rounds:
    rows = np.arange(6)
    logged = chances(LOGGED[:, None], cluster_RP=CLUSTER_LOGGED[:, None])
    policy = chances(POLICY[rows, ACTIONS][:, None], cluster_RP=CLUSTER_POLICY[:, None])
    expected = (POLICY * PREDICTED).sum(axis=1)[:, None]
    challenger = target(policy, expected_RP=expected, expected_next_RP=expected, drawn_RP=(GREEDY == ACTIONS)[:, None])
    return rounds_of(
        REWARDS[:, None], logged, target(logged, drawn_RP=True), challenger, PREDICTED[rows, ACTIONS][:, None]
    )


def slates() -> Rounds:
    logged, policy = (
        chances(cascade / np.concatenate([np.ones((3, 1)), cascade[:, :-1]], axis=1), position)
        for cascade, position in zip(CASCADE, POSITION, strict=True)
    )
    expected_next = SLATE_PREDICTED @ [0.6, 0.4]
    predicted = np.take_along_axis(SLATE_PREDICTED, SLATE_ACTIONS[:, :, None], axis=2)[:, :, 0]
    return rounds_of(SLATE_REWARDS, logged, target(logged), target(policy, 0.0, expected_next), predicted)
