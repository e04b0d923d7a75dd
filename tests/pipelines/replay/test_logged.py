from __future__ import annotations

import numpy as np
import pytest
from logged_pages import page, table

from features.schemas import EVENT_CODE
from pipelines.replay.config import ReplayConfig
from pipelines.replay.logged import NOBODY, Grid, read_batch, rewards

CLICKS = ReplayConfig()


def test_pages_of_several_lengths_are_padded_behind() -> None:
    rows = [
        page(0, ["a", "b"], propensities=[0.5, 0.25], events=["click", "impression"]),
        page(1, ["b"], propensities=[0.1], events=["purchase"]),
    ]
    batch = read_batch(table(rows), CLICKS)
    names = batch.items.to_pylist()
    assert [[names[item] for item in row if item != NOBODY] for row in batch.shown_RP] == [["a", "b"], ["b"]]
    assert batch.there_RP.tolist() == [[True, True], [True, False]]
    assert batch.propensities_RP.tolist() == [[0.5, 0.25], [0.1, 1.0]]
    assert batch.rewards_RP.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert batch.times_R.tolist() == [0, 1000]


def test_a_propensity_that_is_missing_is_nan() -> None:
    rows = [page(0, ["a", "b"], propensities=[0.5, None]), page(1, ["a", "b"])]
    propensities_RP = read_batch(table(rows), CLICKS).propensities_RP
    assert propensities_RP[0, 0] == 0.5
    assert np.isnan(propensities_RP).tolist() == [[False, True], [True, True]]


def test_a_value_that_was_logged_as_nan_is_too_much_for_any_reward() -> None:
    """Null means that nothing was paid; a shop's mistake must not."""
    rows = [page(0, ["a", "b"], events=["purchase", "click"], values=[np.nan, None]), page(1, ["a"], values=[4.0])]
    rewards_RP = read_batch(table(rows), ReplayConfig(reward={"value": 0.5})).rewards_RP
    assert rewards_RP.tolist() == [[np.inf, 0.0], [2.0, 0.0]]
    assert np.isfinite(read_batch(table(rows), CLICKS).rewards_RP).all()


def test_candidates_are_named_or_not() -> None:
    rows = [page(0, ["a"], candidates=["b", "a"], candidate_scores=[2.0, 1.0]), page(1, ["a"])]
    batch = read_batch(table(rows), CLICKS)
    assert batch.named_R.tolist() == [True, False]
    assert batch.candidate_rows_X.tolist() == [0, 0]
    assert batch.items.take(batch.candidates_X.tolist()).to_pylist() == ["b", "a"]
    assert batch.candidate_scores_X.tolist() == [2.0, 1.0]


def test_the_position_of_a_page_of_one_item_may_stand_in_its_context() -> None:
    rows = [page(0, ["a"], context=[("position", "2")]), page(1, ["a"]), page(2, ["a"], context=[("position", "x")])]
    assert read_batch(table(rows), CLICKS).positions_RP[:, 0].tolist() == [2, 0, 0]
    longer = read_batch(table([page(0, ["a", "b"], context=[("position", "2")])]), CLICKS)
    assert longer.positions_RP.tolist() == [[0, 1]]


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"page 'r7': propensities: expected one per item, 2, got 1; 1 of 2 pages"):
        read_batch(table([page(3, ["a"], propensities=[0.5]), page(7, ["a", "b"], propensities=[0.5])]), CLICKS)


def test_an_unknown_event_is_refused() -> None:
    fine, wrong = page(3, ["a", "b"]), page(7, ["a", "b"], events=["click", "wink"])
    with pytest.raises(ValueError, match=r"page 'r7': events: expected impression.*got \['wink'\]; 2 of 3 pages"):
        read_batch(table([fine, wrong, wrong]), CLICKS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (page(7, ["a", "b"], events=["click"]), "page 'r7': events: expected one per shown item, 2, got 1; 1 of 2"),
        (page(7, ["a", None]), "page 'r7': items: expected an id everywhere, got null; 1 of 2 pages are so"),
        (page(7, ["a"], candidates=["a", None]), "page 'r7': candidates: expected an id everywhere, got null; 1 of 2"),
    ],
)
def test_lists_that_cannot_be_name_their_page(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_batch(table([page(3, []), wrong]), CLICKS)


@pytest.mark.parametrize(
    ("event", "value", "expected"),
    [
        ("impression", np.nan, 0.0),
        ("click", np.nan, 1.0),
        ("cart", np.nan, 1.0 + 2.0),
        ("purchase", 8.0, 1.0 + 2.0 + 4.0 + 0.5 * 8.0),
        ("dislike", np.nan, -3.0),
    ],
)
def test_a_reward_is_the_sum_of_what_happened(event: str, value: float, expected: float) -> None:
    config = ReplayConfig(reward={"click": 1.0, "cart": 2.0, "purchase": 4.0, "dislike": -3.0, "value": 0.5})
    assert rewards(np.array([EVENT_CODE[event]]), np.array([value]), config).tolist() == [expected]


def test_columns_are_in_the_order_of_first_mention() -> None:
    grid = Grid([np.array([0, 0, 1]), np.array([0, 1])], [np.array([5, 2, 2]), np.array([5, 9])], 2)
    assert grid.items_RK.tolist() == [[5, 2], [2, 9]]
    assert grid.find(np.array([0, 1, 1, 0]), np.array([2, 9, 5, 77])).tolist() == [1, 1, NOBODY, NOBODY]
