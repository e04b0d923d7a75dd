from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipelines.simulator.behaviour import (
    CLICK_FATIGUE,
    CLICK_NEED,
    MEMORY,
    NO_CLICK,
    NO_ITEM,
    Moments,
    answer_probabilities,
    answered_leaves,
    draw_answers,
    draw_rows,
    next_needs,
)
from pipelines.simulator.world import LEAVES, World

PAGE = np.array([[3, 14, 15, 92, 65]])


def moments_of(world: World, need: int) -> Moments:
    recent = np.full((1, MEMORY, world.config.page_items), NO_ITEM)
    return Moments(users_R=np.array([5]), times_R=np.array([0]), needs_R=np.array([need]), recent_RMP=recent)


def log_odds(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


@pytest.mark.parametrize(("device", "bias"), [(0, 0.4), (1, 0.6)])
def test_examination_falls_with_position(small_world: World, device: int, bias: float) -> None:
    devices = np.full_like(small_world.users.device_UT, device)
    world = dataclasses.replace(small_world, users=dataclasses.replace(small_world.users, device_UT=devices))
    examine = answer_probabilities(world, moments_of(world, 0), PAGE).examine
    np.testing.assert_allclose(examine, [[1.0, 2**-bias, 3**-bias, 4**-bias, 5**-bias]])


def test_probability_does_not_depend_on_position_apart_from_examination(small_world: World) -> None:
    forward = answer_probabilities(small_world, moments_of(small_world, 0), PAGE)
    backward = answer_probabilities(small_world, moments_of(small_world, 0), PAGE[:, ::-1])
    np.testing.assert_allclose(forward.click, backward.click[:, ::-1])
    np.testing.assert_allclose(forward.purchase, backward.purchase[:, ::-1])


def test_need_attracts_and_repetition_tires(small_world: World) -> None:
    item, leaf = 14, int(small_world.items.leaf_N[14])
    page = np.array([[item]])
    other = moments_of(small_world, (leaf + 1) % LEAVES)
    plain = answer_probabilities(small_world, other, page).click[0, 0]
    wanted = answer_probabilities(small_world, moments_of(small_world, leaf), page).click[0, 0]
    other.recent_RMP[0, :2, 1] = item
    seen_twice = answer_probabilities(small_world, other, page).click[0, 0]
    assert log_odds(wanted) - log_odds(plain) == pytest.approx(CLICK_NEED)
    assert log_odds(plain) - log_odds(seen_twice) == pytest.approx(2 * CLICK_FATIGUE)


def test_no_item_is_never_examined(small_world: World) -> None:
    answers = answer_probabilities(small_world, moments_of(small_world, 0), np.array([[3, NO_ITEM]]))
    assert answers.examine.tolist() == [[1.0, 0.0]]


def test_answers_are_drawn_as_often_as_their_probabilities_say(small_world: World) -> None:
    draws = 40_000
    answers = answer_probabilities(small_world, moments_of(small_world, int(small_world.items.leaf_N[14])), PAGE)
    many = dataclasses.replace(
        answers, **{name: np.repeat(value, draws, axis=0) for name, value in vars(answers).items()}
    )
    stages = draw_answers(many, np.random.default_rng(3))
    reached = answers.examine[0] * answers.click[0]
    for stage, step in ((1, 1.0), (2, answers.cart[0]), (3, answers.purchase[0])):
        reached = reached * step
        error = np.sqrt(reached * (1 - reached) / draws)
        assert (np.abs((stages >= stage).mean(axis=0) - reached) < 4 * error).all()


def test_the_furthest_going_item_answers_the_need(small_world: World) -> None:
    items = np.array([[3, 14, 15], [3, 14, 15]])
    stages = np.array([[1, 3, 0], [0, 0, 0]])
    assert answered_leaves(small_world, items, stages).tolist() == [small_world.items.leaf_N[14], NO_CLICK]


def test_needs_move_along_the_chain_and_stay_without_an_answer(small_world: World) -> None:
    rng = np.random.default_rng(4)
    answered = np.full(50_000, 9)
    moved = np.bincount(next_needs(small_world, np.zeros_like(answered), answered, rng), minlength=LEAVES) / 50_000
    chain = small_world.tree.chain_SS[9]
    assert chain.sum() == pytest.approx(1.0)
    assert (np.abs(moved - chain) < 4 * np.sqrt(chain * (1 - chain) / 50_000) + 1e-3).all()
    needs = np.arange(LEAVES)
    assert (next_needs(small_world, needs, np.full(LEAVES, NO_CLICK), rng) == needs).all()


def test_draw_rows_inverts_the_cumulated_weights() -> None:
    weights = np.array([[1.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
    uniforms = np.array([[0.0, 0.24, 0.25, 0.49, 0.5, 0.99], [0.0, 0.3, 0.5, 0.7, 0.9, 0.99]])
    assert draw_rows(weights, np.array([0, 1]), uniforms).tolist() == [[0, 0, 1, 1, 2, 2], [1] * 6]
