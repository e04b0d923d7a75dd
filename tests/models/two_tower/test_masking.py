import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.two_tower.bags import Bag
from models.two_tower.masking import draw_masks, mutual_information, reference_mutual_information

ROWS = st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=3), st.lists(st.integers(0, 3), max_size=3)), min_size=1)


def bag(rows):
    lengths = [len(row) for row in rows]
    return Bag(
        np.array([value for row in rows for value in row], dtype=np.int64),
        np.append(0, np.cumsum(lengths)).astype(np.int64),
    )


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_mutual_information_equals_the_reference(rows):
    one, other = bag([row[0] for row in rows]), bag([row[1] for row in rows])
    found = mutual_information([one, other])
    assert found[0, 1] == found[1, 0] == pytest.approx(reference_mutual_information(one, other), abs=1e-9)


def test_independent_features_tell_nothing_and_equal_ones_all():
    colour = bag([[0], [0], [1], [1]])
    size = bag([[0], [1], [0], [1]])
    found = mutual_information([colour, size, colour])
    assert found[0, 1] == pytest.approx(0, abs=1e-12)
    assert found[0, 2] == pytest.approx(np.log(2))


INFORMATION = np.array(
    [
        [0.0, 0.9, 0.1, 0.2, 0.3],
        [0.9, 0.0, 0.5, 0.4, 0.3],
        [0.1, 0.5, 0.0, 0.8, 0.7],
        [0.2, 0.4, 0.8, 0.0, 0.6],
        [0.3, 0.3, 0.7, 0.6, 0.0],
    ]
)
TOGETHER = {0: {0, 1, 4}, 1: {1, 0, 2}, 2: {2, 3, 4}, 3: {3, 2, 4}, 4: {4, 2, 3}}
"""Each feature with the floor(5 / 2) = 2 that tell most about it."""


def drawn(masking, complementary, count=200, information=INFORMATION):
    rng = np.random.default_rng(0)
    return [draw_masks(information, masking, complementary, rng) for _ in range(count)]


def test_correlated_masks_hide_the_seed_and_what_tells_most_about_it():
    found = {frozenset(np.flatnonzero(first).tolist()) for first, _ in drawn("cfm", True)}
    assert found == {frozenset(hidden) for hidden in TOGETHER.values()}


@pytest.mark.parametrize("masking", ["cfm", "rfm"])
def test_complementary_views_hide_every_feature_once(masking):
    assert all((first ^ second).all() for first, second in drawn(masking, True))


@pytest.mark.parametrize("masking", ["cfm", "rfm"])
def test_without_complement_the_second_mask_is_drawn_anew(masking):
    masks = drawn(masking, False)
    assert any((first & second).any() for first, second in masks)
    sizes = {int(hidden.sum()) for pair in masks for hidden in pair}
    assert sizes == {3 if masking == "cfm" else 2}


def test_random_masks_hide_each_feature_equally_often():
    shares = np.mean([first for first, _ in drawn("rfm", True, 2_000)], axis=0)
    assert shares == pytest.approx(2 / 5, abs=0.05)


def test_of_two_features_one_stays_visible():
    masks = drawn("cfm", True, information=np.zeros((2, 2)))
    assert {int(first.sum()) for first, _ in masks} == {1}
