"""Side by side with Open Bandit Pipeline on the same random arrays, where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from obp_twins import MIPS, SLATES, judged, name_of, of_one_item
from replay_worlds import chances, rounds_of, target

from pipelines.replay.estimators import Rejection, SelfNormalisedIps
from pipelines.replay.estimators.interface import Estimator

ope: Any = pytest.importorskip("obp.ope", reason="obp is not installed", exc_type=ImportError)
PAGES, ITEMS, SLOTS = 400, 6, 3
CLUSTERS = np.array([0, 0, 1, 1, 2, 2])
ONE_ITEM = (*of_one_item(clip=1.5, limit=4.0), MIPS, SelfNormalisedIps(weights="cluster"))
THEIRS_OF_ONE_ITEM = (
    ope.InverseProbabilityWeighting(),
    ope.InverseProbabilityWeighting(lambda_=1.5),
    ope.SelfNormalizedInverseProbabilityWeighting(),
    ope.DirectMethod(),
    ope.DoublyRobust(),
    ope.DoublyRobust(lambda_=1.5),
    ope.SelfNormalizedDoublyRobust(),
    ope.SwitchDoublyRobust(lambda_=1.5),
    ope.DoublyRobustWithShrinkage(lambda_=1.5),
    ope.SubGaussianInverseProbabilityWeighting(lambda_=0.25),
    ope.MarginalizedInverseProbabilityWeighting(n_actions=ITEMS),
    ope.SelfNormalizedMarginalizedInverseProbabilityWeighting(n_actions=ITEMS),
)
THEIRS_OF_SLATES = (
    ope.SlateStandardIPS(len_list=SLOTS),
    ope.SlateIndependentIPS(len_list=SLOTS),
    ope.SlateRewardInteractionIPS(len_list=SLOTS),
    ope.SelfNormalizedSlateStandardIPS(len_list=SLOTS),
    ope.SelfNormalizedSlateIndependentIPS(len_list=SLOTS),
    ope.SelfNormalizedSlateRewardInteractionIPS(len_list=SLOTS),
    ope.SlateCascadeDoublyRobust(len_list=SLOTS, n_unique_action=ITEMS),
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("estimator", "theirs"), list(zip(ONE_ITEM, THEIRS_OF_ONE_ITEM, strict=True)), ids=name_of)
def test_pages_of_one_item_equal(estimator: Estimator, theirs: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.arange(PAGES)
    logged_RI, policy_RI = (rng.dirichlet(np.ones(ITEMS), PAGES) + 0.02 for _ in range(2))
    logged_RI, policy_RI = (array / array.sum(axis=1, keepdims=True) for array in (logged_RI, policy_RI))
    item_R = (logged_RI.cumsum(axis=1) < rng.random((PAGES, 1))).sum(axis=1)
    reward_R, predicted_RI = rng.integers(0, 2, PAGES).astype(float), rng.random((PAGES, ITEMS))
    same_II = (CLUSTERS[:, None] == CLUSTERS).astype(float)

    def of(chance_RI: np.ndarray[Any, Any]) -> Any:
        return chances(chance_RI[rows, item_R][:, None], cluster_RP=(chance_RI @ same_II)[rows, item_R][:, None])

    logged, expected_RP = of(logged_RI), (policy_RI * predicted_RI).sum(axis=1)[:, None]
    challenger = target(of(policy_RI), expected_RP)
    rounds = rounds_of(reward_R[:, None], logged, target(logged), challenger, predicted_RI[rows, item_R][:, None])
    value = theirs.estimate_policy_value(
        reward=reward_R,
        action=item_R,
        pscore=logged_RI[rows, item_R],
        action_dist=policy_RI[:, :, None],
        position=np.zeros(PAGES, dtype=int),
        estimated_rewards_by_reg_model=predicted_RI[:, :, None],
        action_embed=CLUSTERS[item_R][:, None],
        pi_b=logged_RI[:, :, None],
        p_e_a=np.eye(3)[CLUSTERS][:, :, None],
        context=rng.random((PAGES, 2)),
    )
    assert judged(estimator, rounds).value_b == pytest.approx(value, abs=1e-9)


def test_replay_by_rejection_equals() -> None:
    rng = np.random.default_rng(2)
    item_R, drawn_R = rng.integers(0, ITEMS, (2, PAGES))
    reward_R = rng.random(PAGES)
    logged = chances(np.full((PAGES, 1), 1 / ITEMS))
    challenger = target(logged, drawn_RP=(item_R == drawn_R)[:, None])
    rounds = rounds_of(reward_R[:, None], logged, target(logged, drawn_RP=True), challenger)
    value = ope.ReplayMethod().estimate_policy_value(
        reward=reward_R,
        action=item_R,
        action_dist=np.eye(ITEMS)[drawn_R][:, :, None],
        position=np.zeros(PAGES, dtype=int),
    )
    assert judged(Rejection(), rounds).value_b == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("estimator", "theirs"), list(zip(SLATES, THEIRS_OF_SLATES, strict=True)), ids=name_of)
def test_slates_equal(estimator: Estimator, theirs: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    conditional, position = (rng.uniform(0.2, 0.9, (2, PAGES, SLOTS)) for _ in range(2))
    reward_RP, item_RP = rng.random((PAGES, SLOTS)), rng.integers(0, ITEMS, (PAGES, SLOTS))
    predicted_RPI, policy_RPI = rng.random((PAGES, SLOTS, ITEMS)), rng.dirichlet(np.ones(ITEMS), (PAGES, SLOTS))
    logged, policy = (chances(conditional[of], position[of]) for of in range(2))
    predicted_RP = np.take_along_axis(predicted_RPI, item_RP[:, :, None], axis=2)[:, :, 0]
    challenger = target(policy, 0.0, (predicted_RPI * policy_RPI).sum(axis=2))
    rounds = rounds_of(reward_RP, logged, target(logged), challenger, predicted_RP)
    cascade, page = conditional.cumprod(axis=2), conditional.prod(axis=2)
    value = theirs.estimate_policy_value(
        slate_id=np.repeat(np.arange(PAGES), SLOTS),
        reward=reward_RP.ravel(),
        position=np.tile(np.arange(SLOTS), PAGES),
        action=item_RP.ravel(),
        pscore=np.repeat(page[0], SLOTS),
        evaluation_policy_pscore=np.repeat(page[1], SLOTS),
        pscore_item_position=position[0].ravel(),
        evaluation_policy_pscore_item_position=position[1].ravel(),
        pscore_cascade=cascade[0].ravel(),
        evaluation_policy_pscore_cascade=cascade[1].ravel(),
        q_hat=predicted_RPI.ravel(),
        evaluation_policy_action_dist=policy_RPI.ravel(),
    )
    assert judged(estimator, rounds).value_b == pytest.approx(value, abs=1e-9)
