"""Estimators and verdicts on logs from a marketplace whose true values are known.

`prove.py` counts over 2,000 logs; here fewer, with bands that a right implementation leaves once in ten thousand times.
"""

from __future__ import annotations

import numpy as np
import pytest
from harmless_worlds import RareReward
from proof_runs import (
    BETTER,
    PAGES,
    PILOT_SEEDS,
    QUICK,
    SEEDS,
    Replicates,
    World,
    champion_value,
    detectable,
    harmless,
    judged,
    people,
    powerful,
    rare_or_outside,
    scene,
    scene_of,
    ships,
    upper_bound,
)
from proof_world import PAGES as ALL_PAGES
from proof_world import Scene
from rare_rewards import false_ships
from scipy import stats

pytestmark = pytest.mark.integration

FEW = SEEDS[:50]
HARDLY = 1e-4
RIGHT = ("ips", "snips", "dr", "sndr", "rips", "cascade_dr", "iips", "iips_dr", "iips_sndr")
"""Estimators whose assumption holds where a click depends on its own item."""


@pytest.fixture(scope="module")
def better() -> Scene:
    return scene(BETTER)


def test_chances_add_up_and_what_is_expected_of_slots_does_not_depend_on_the_way(better: Scene) -> None:
    model = np.random.default_rng(0).random(better.targets[1].marginal_TPK.shape)
    for table in (better.logged, *better.targets):
        np.testing.assert_allclose(table.pages_TS.sum(axis=1), 1, rtol=1e-9)
        np.testing.assert_allclose(table.marginal_TPK.sum(axis=2), 1, rtol=1e-9)
        by_pages_TP = np.einsum("ts,tsp->tp", table.pages_TS, table.next_TSP(model))
        np.testing.assert_allclose(by_pages_TP, np.einsum("tpk,tpk->tp", table.marginal_TPK, model), rtol=1e-9)


def test_chances_of_pages_are_those_of_the_last_stage_that_serves(better: Scene) -> None:
    table = better.targets[1]
    scores = np.repeat(table.scores_TK[:2], len(ALL_PAGES), axis=0)
    log = table.policy.log_prob(scores, np.ones(scores.shape, dtype=bool), np.tile(ALL_PAGES, (2, 1)))
    np.testing.assert_allclose(table.conditional_TSP[:2].reshape(log.shape), np.exp(log), rtol=1e-12)


def test_the_true_value_is_what_a_long_log_earns(better: Scene) -> None:
    rounds = better.draw(1, 200_000)
    earned_R = rounds.rewards_RP.sum(axis=1)
    error = np.sqrt(2 * earned_R.var() / len(earned_R))  # pages of one user are alike: twice the variance, generously
    assert abs(earned_R.mean() - better.logged.value(better.rewards_TSP)) < 4 * error


def test_the_logged_probability_of_a_page_is_the_rate_at_which_it_is_drawn(better: Scene) -> None:
    rounds = better.draw(2, 100_000)
    share_T = people().visits_T / people().visits_T.sum()
    # The mean of 1 / P(page) over a log is the number of pages that there are, whoever asks.
    inverse_R = 1 / rounds.logged.conditional_RP.prod(axis=1)
    error = inverse_R.std() / np.sqrt(len(inverse_R))
    assert abs(inverse_R.mean() - len(ALL_PAGES) * share_T.sum()) < 5 * error


def test_intervals_hold_the_truth_as_often_as_they_say(better: Scene) -> None:
    found = Replicates.of(better, FEW, names=RIGHT, config=QUICK)
    least = stats.binom.ppf(HARDLY / (2 * len(RIGHT)), len(FEW), 0.93)
    for name in RIGHT:
        assert found.covered(name) >= least, name
        assert found.covered(name, "bootstrap_") >= least, name
        assert found.covered(name, "always_valid_") >= stats.binom.ppf(HARDLY / len(RIGHT), len(FEW), 0.95), name
        error_N = found.error(name)
        assert abs(error_N.mean()) < 4.5 * error_N.std(ddof=1) / np.sqrt(len(FEW)), name
        assert found.se(name).mean() == pytest.approx(error_N.std(ddof=1), rel=0.5), name


def test_a_model_that_is_fitted_to_other_users_does_no_harm() -> None:
    found = Replicates.of(scene(BETTER, model="fitted"), FEW[:40], names=("iips_dr",), config=QUICK)
    assert found.covered("iips_dr") >= stats.binom.ppf(HARDLY, 40, 0.93)


def test_where_clicks_depend_on_the_item_above_the_wrong_assumption_shows() -> None:
    """IIPS takes slots apart; the pages it then adds up are none that the challenger shows."""
    world = scene(1.5, answers="item_above")
    found = Replicates.of(world, FEW[:20], pages=80_000, names=("iips", "rips"), config=QUICK)
    distance = {name: found.error(name).mean() / (found.error(name).std(ddof=1) / np.sqrt(20)) for name in found.names}
    assert abs(distance["rips"]) < 4.5
    assert abs(distance["iips"]) > 10


def test_the_champion_itself_differs_by_exactly_nothing_and_is_never_shipped() -> None:
    world = scene(0.0, 0.0)
    assert world.difference == 0.0
    found = Replicates.of(world, FEW[:3])
    paired = [name for name in found.names if name != "rejection"]  # whose pages are drawn for each policy by itself
    assert all(not found.error(name).any() for name in paired)
    assert not any(ships(world, seed) for seed in FEW[:3])


def test_harm_is_hardly_shipped_and_a_detectable_gain_is() -> None:
    harmful = sum(ships(scene_of(-0.01 * champion_value()), seed) for seed in FEW[:10])
    even_scene = scene_of(0.0)
    even = sum(ships(even_scene, seed) for seed in FEW[:40])
    assert harmful <= stats.binom.isf(HARDLY, 10, 0.025)
    assert even <= stats.binom.isf(HARDLY, 40, 0.025)
    gain = scene_of(detectable(even_scene, PILOT_SEEDS[:10]))
    shipped = sum(ships(gain, seed) for seed in FEW[:16])
    assert shipped >= stats.binom.ppf(HARDLY, 16, 0.75)


@pytest.mark.parametrize(("what", "world"), list(rare_or_outside()))
def test_few_rewards_and_unknown_parts_ship_nothing(what: str, world: World) -> None:
    assert world.difference == 0
    assert sum(ships(world, seed, 6000) for seed in FEW) <= stats.binom.isf(HARDLY, len(FEW), 0.025), what


@pytest.mark.parametrize("share", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("rewards", [6, 25, 100, 200])
def test_few_rewards_hardly_ship(share: float, rewards: int) -> None:
    """The interval alone ships half of them at 6 rewards on 95 pages of 100."""
    alone, _, seen, both = false_ships(RareReward(share, rewards), 500)
    assert both <= seen <= alone
    assert seen <= stats.binom.isf(HARDLY, 500, 0.025) / 500
    assert alone > 0.4 or (share, rewards) != (0.95, 6)


def test_the_bound_of_a_rate_is_exact() -> None:
    assert upper_bound(0, 2000) == pytest.approx(1 - 0.05 ** (1 / 2000))
    assert stats.binom.cdf(3, 100, upper_bound(3, 100)) == pytest.approx(0.05)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_coverage_over_all_logs(better: Scene) -> None:
    found = Replicates.of(better, SEEDS, PAGES)
    for name in RIGHT:
        assert 0.93 <= found.covered(name) / len(SEEDS) <= 0.97, name
        assert 0.93 <= found.covered(name, "bootstrap_") / len(SEEDS) <= 0.97, name
        assert found.covered(name, "always_valid_") / len(SEEDS) >= 0.95, name


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_false_ships_and_power_over_all_logs() -> None:
    stated = judged(powerful().draw(SEEDS[0], PAGES), QUICK, SEEDS[0]).false_ship
    for what, world in harmless():
        count = sum(ships(world, seed) for seed in SEEDS)
        print(f"{what}: {count} of {len(SEEDS):,} shipped, upper bound {upper_bound(count, len(SEEDS)):.2%}")
        assert upper_bound(count, len(SEEDS)) <= stated, what
    count = sum(ships(powerful(), seed) for seed in SEEDS)
    print(f"better by the minimum detectable effect: {count} of {len(SEEDS):,} shipped")
    assert count >= 0.75 * len(SEEDS)
