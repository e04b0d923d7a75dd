from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipelines.simulator.policy import NO_CLICK, Shelf, draw_candidates, draw_pages, estimate_taste, score_candidates
from pipelines.simulator.world import World

SCORES = np.array([1.0, 0.0, -0.5, 0.3])
EPSILON, TEMPERATURE = 0.2, 0.7
PAGES_OF_TWO = list(itertools.permutations(range(4), 2))


def slow_propensities(scores: np.ndarray, page: tuple[int, ...], epsilon: float, temperature: float) -> list[float]:
    left, result = list(range(len(scores))), []
    for candidate in page:
        softmax = math.exp(scores[candidate] / temperature) / sum(math.exp(scores[c] / temperature) for c in left)
        result.append((1 - epsilon) * softmax + epsilon / len(left))
        left.remove(candidate)
    return result


def draw(scores_RC: np.ndarray, counts_RC: np.ndarray, page_items: int, epsilon: float = EPSILON, seed: int = 0):  # type: ignore[no-untyped-def]
    return draw_pages(
        scores_RC,
        counts_RC,
        page_items=page_items,
        epsilon=epsilon,
        temperature=TEMPERATURE,
        rng=np.random.default_rng(seed),
    )


def test_propensities_equal_the_slow_formula_and_sum_to_one_over_all_pages() -> None:
    scores_RC = np.tile(SCORES, (2_000, 1))
    pages_RP, propensities_RP = draw(scores_RC, np.ones(scores_RC.shape, bool), page_items=2)
    probability = {page: math.prod(slow_propensities(SCORES, page, EPSILON, TEMPERATURE)) for page in PAGES_OF_TWO}
    assert sum(probability.values()) == pytest.approx(1.0)
    assert {tuple(page) for page in pages_RP.tolist()} == set(PAGES_OF_TWO)
    for page, logged in zip(pages_RP.tolist(), propensities_RP, strict=True):
        np.testing.assert_allclose(logged, slow_propensities(SCORES, tuple(page), EPSILON, TEMPERATURE))


def test_pages_are_drawn_as_often_as_their_logged_propensities_say() -> None:
    draws = 60_000
    scores_RC = np.tile(SCORES, (draws, 1))
    pages_RP, _ = draw(scores_RC, np.ones(scores_RC.shape, bool), page_items=2)
    expected = [draws * math.prod(slow_propensities(SCORES, page, EPSILON, TEMPERATURE)) for page in PAGES_OF_TWO]
    seen = [int((pages_RP == page).all(axis=1).sum()) for page in PAGES_OF_TWO]
    chi_square = sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
    assert chi_square < 31.26  # 99.9 % quantile of 11 degrees of freedom


def test_uniform_policy_has_propensities_one_over_what_is_left() -> None:
    _, propensities_RP = draw(SCORES[None], np.ones((1, 4), bool), page_items=4, epsilon=1.0)
    np.testing.assert_allclose(propensities_RP, [[1 / 4, 1 / 3, 1 / 2, 1]])


def test_candidates_that_do_not_count_are_never_drawn() -> None:
    counts_RC = np.tile([True, False, True, True], (3_000, 1))
    pages_RP, propensities_RP = draw(np.tile(SCORES, (3_000, 1)), counts_RC, page_items=3)
    assert (np.sort(pages_RP, axis=1) == [0, 2, 3]).all()
    np.testing.assert_allclose(propensities_RP[:, 2], 1.0)


def test_far_apart_scores_leave_no_rounding_in_the_last_slot() -> None:
    scores_RC = np.tile([0.0, 30.0, -30.0, 10.0], (500, 1))
    pages_RP, propensities_RP = draw(scores_RC, np.ones(scores_RC.shape, bool), page_items=4)
    assert (np.sort(pages_RP, axis=1) == np.arange(4)).all()
    assert ((propensities_RP > 0) & (propensities_RP <= 1)).all()
    np.testing.assert_allclose(propensities_RP[:, 3], 1.0)


def test_candidates_are_live_distinct_and_enough(small_world: World) -> None:
    rng = np.random.default_rng(1)
    shelf = Shelf.of_day(small_world, 2, rng)
    users = np.arange(len(small_world.users))
    belief = estimate_taste(small_world.users.taste(users, np.full(len(users), 2)), rng)
    last_leaf = np.where(users % 2 == 0, NO_CLICK, users % 48)
    items_RC, counts_RC = draw_candidates(small_world, shelf, belief, last_leaf, rng)
    live = set(small_world.items.live(2).tolist())
    for items, counts in zip(items_RC, counts_RC, strict=True):
        counted = items[counts].tolist()
        assert set(items.tolist()) == set(counted)
        assert len(set(counted)) == len(counted) >= small_world.config.page_items
        assert set(counted) <= live
    scores = score_candidates(small_world, items_RC, belief, last_leaf, rng)
    assert scores.shape == items_RC.shape
    assert np.isfinite(scores).all()


def test_a_shop_that_sold_out_says_so(small_world: World) -> None:
    with pytest.raises(ValueError, match=r"candidates / 4 = 10 available items on day 3000, got 0"):
        Shelf.of_day(small_world, 3_000, np.random.default_rng(0))
