from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tokenizer.balance import EPSILON, balanced_assign, capacity, reference_assign


def total(distances: npt.NDArray[np.floating], codes: npt.NDArray[np.int32]) -> float:
    return float(distances[np.arange(len(codes)), codes].sum(dtype=np.float64))


def test_capacity_rounds_up() -> None:
    assert capacity(10, 4, 1.0) == 3
    assert capacity(1000, 64, 1.05) == 17  # 1.05 * 1000 / 64 = 16.4


def test_the_item_that_loses_least_makes_room() -> None:
    distances = np.array([[1.0, 9.0], [2.0, 3.0], [2.5, 8.0]])
    # all three want code 0, which holds two: item 1 loses 1.0 elsewhere, the others 8.0 and 5.5
    assert balanced_assign(distances, capacity=2).tolist() == [0, 1, 0]


def test_equal_items_fill_the_codes() -> None:
    assert sorted(balanced_assign(np.ones((4, 2)), capacity=2).tolist()) == [0, 0, 1, 1]
    assert np.bincount(balanced_assign(np.zeros((9, 4)), capacity=3)).max() == 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.floats(1.0, 2.0), st.integers(1, 30), st.integers(0, 10_000))
def test_small_raises_find_the_optimum_of_whole_numbers(
    items: int, codes: int, slack: float, distinct: int, seed: int
) -> None:
    distances = np.random.default_rng(seed).integers(0, distinct, (items, codes)).astype(np.float32)
    room = capacity(items, codes, slack)
    # raises below 1 / items cannot add up to a whole unit of distance
    epsilon = 0.5 / items / max(float(distances.mean()), 1e-9)
    assigned = balanced_assign(distances, room, epsilon)
    assert total(distances, assigned) == total(distances, reference_assign(distances, room))
    assert np.bincount(assigned).max() <= room


@pytest.mark.parametrize(("items", "codes", "tilt"), [(400, 16, 0.0), (400, 16, 0.3), (300, 50, 1.0), (50, 50, 0.0)])
def test_default_raises_end_within_the_bound(items: int, codes: int, tilt: float) -> None:
    # the tilt makes every item prefer the same codes
    distances = (np.random.default_rng(0).random((items, codes)) + tilt * np.arange(codes)).astype(np.float32)
    room = capacity(items, codes, 1.05)
    assigned = balanced_assign(distances, room)
    best = total(distances, reference_assign(distances, room))
    assert best - 1e-3 <= total(distances, assigned) <= best + items * EPSILON * distances.mean()
    assert np.bincount(assigned).max() <= room


def test_with_room_for_all_it_is_the_nearest_code() -> None:
    distances = np.random.default_rng(1).random((50, 7))
    np.testing.assert_array_equal(balanced_assign(distances, 51), distances.argmin(axis=1))


def test_too_little_room_and_broken_distances_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 4 for 7 items in 2 codes, got 3"):
        balanced_assign(np.zeros((7, 2)), capacity=3)
    with pytest.raises(ValueError, match="NaN or infinity"):
        balanced_assign(np.full((2, 2), np.nan), capacity=2)
