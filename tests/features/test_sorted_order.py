"""Sorting by several columns through one number, against `numpy.lexsort`."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.states import sorted_order


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 200), columns=st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_the_order_is_that_of_lexsort(seed, size, columns):
    rng = np.random.default_rng(seed)
    made = [_column(rng, size) for _ in range(columns)]
    assert sorted_order(made).tolist() == np.lexsort(made[::-1]).tolist()


def test_hashes_that_share_their_leading_bits():
    rng = np.random.default_rng(0)
    hashes = np.array([2**61 + 1, 2**61 + 2, -(2**62), 2**62])
    columns = [rng.integers(0, 3, 500), hashes[rng.integers(0, 4, 500)], rng.integers(0, 9, 500)]
    assert sorted_order(columns).tolist() == np.lexsort(columns[::-1]).tolist()


def _column(rng: np.random.Generator, size: int) -> np.ndarray:
    kind = rng.integers(0, 3)
    if kind == 0:
        return rng.integers(0, rng.integers(1, 9), size)
    if kind == 1:
        return rng.choice(rng.integers(-(2**63), 2**63 - 1, 5), size)
    return rng.integers(-(2 ** int(rng.integers(0, 40))), 2 ** int(rng.integers(1, 62)), size)
