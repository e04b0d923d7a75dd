"""The trie's arrays by hand, and the IDs it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.trie import Trie


def test_levels_of_five_ids() -> None:
    trie = Trie.from_sorted(np.array([[0, 1, 2], [0, 1, 4], [0, 3, 0], [2, 0, 1], [2, 0, 9]]))
    first, second, third = trie.levels
    assert first.child_offsets.tolist() == [0, 2]
    assert (first.codes.tolist(), first.leaf_bounds.tolist()) == ([0, 2], [0, 3, 5])
    assert second.child_offsets.tolist() == [0, 2, 3]
    assert (second.codes.tolist(), second.leaf_bounds.tolist()) == ([1, 3, 0], [0, 2, 3, 5])
    assert third.child_offsets.tolist() == [0, 2, 3, 5]
    assert (third.codes.tolist(), third.leaf_bounds.tolist()) == ([2, 4, 0, 1, 9], [0, 1, 2, 3, 4, 5])
    assert [level.branching for level in trie.levels] == [2, 2, 2]
    assert first.table is not None
    assert first.table.tolist() == [[0, -1, 1]]
    assert second.table is not None
    assert second.table.tolist() == [[-1, 0, -1, 1], [2, -1, -1, -1]]
    assert third.table is None  # 5 children under 3 nodes x 10 codes
    assert (trie.leaves, trie.nbytes) == (5, 4 * (2 + 2 + 3 + 3) + 4 * (3 + 3 + 4 + 8) + 4 * (4 + 5 + 6))


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        (np.zeros((0, 3), int), r"shape \[S >= 1, L\], got \(0, 3\)"),
        (np.array([[1, 0], [0, 1]]), "lexicographic order"),
        (np.array([[1, 0], [1, 0]]), "distinct rows"),
    ],
)
def test_wrong_ids_are_refused(sids: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie.from_sorted(sids)
