"""The learned fusion: what is said of an item, and the order that follows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recommend.blend import Blend, Joined, relative_scores
from models.recommend.fusion import fuse
from models.recommend.interface import NO_ITEM, Candidates


def candidates(source: str, items: list[list[int]], scores: list[list[float]]) -> Candidates:
    return Candidates(items_BK=np.array(items), scores_BK=np.array(scores, dtype=np.float32), source=source)


GENREC = candidates("genrec", [[7, 3, 5], [2, -1, -1]], [[-1.0, -3.0, -4.0], [-2.0, -np.inf, -np.inf]])
POPULAR = candidates("popular", [[9, 7, -1], [2, 4, -1]], [[8.0, 2.0, -np.inf], [6.0, 3.0, -np.inf]])


def test_scores_are_relative_to_the_best_and_the_unnamed_count_as_the_last() -> None:
    items_BF = np.array([[9, 7, 3, NO_ITEM], [4, 2, NO_ITEM, NO_ITEM]])
    relative_BFR, sources = relative_scores([GENREC, POPULAR], items_BF, None)
    assert sources == ("genrec", "popular")
    # GenRec did not name 9: it counts as 5, its last, 3 below its best
    np.testing.assert_allclose(relative_BFR[0, :, 0], [-3, 0, -2, 0])
    # worths of 8 and 2: logarithms; 3 was not named and counts as 7
    np.testing.assert_allclose(relative_BFR[0, :, 1], [0, math.log(2 / 8), math.log(2 / 8), 0], rtol=1e-6)
    np.testing.assert_allclose(relative_BFR[1, :2, 1], [math.log(3 / 6), 0], rtol=1e-6)


def test_a_list_without_candidates_says_nothing() -> None:
    empty = candidates("genrec", [[-1, -1]], [[-np.inf, -np.inf]])
    relative_BFR, _ = relative_scores([empty], np.array([[1, 2]]), ("ranker", np.array([[0.5, 0.25]], np.float32)))
    assert relative_BFR[0, :, 0].tolist() == [0, 0]
    np.testing.assert_allclose(relative_BFR[0, :, 1], [0, math.log(0.5)], rtol=1e-6)


def test_order_and_parts_follow_the_weights() -> None:
    fused = fuse([GENREC, POPULAR], [1.0, 1.0], rrf_k=60, limit=4)
    joined = Joined(lists=[GENREC, POPULAR], fused=fused, ranker=None, ranker_weight=1.0, rrf_k=60)
    ordered = joined.ordered(Blend(weights={"genrec": 1.0, "popular": 0.5}))
    # 7: 0 + 0.5 log 1/4 = -0.69; 3: -2 - 0.69; 5: -3 - 0.69; 9: -3 + 0
    assert ordered.items_BF[0].tolist() == [7, 3, 9, 5]
    assert ordered.scores_BF[0, 0] == pytest.approx(0.5 * math.log(2 / 8))
    np.testing.assert_allclose(ordered.parts_BFR.sum(axis=2), ordered.scores_BF, rtol=1e-6)
    assert [ordered.sources[named] for named in ordered.named_BF[0]] == ["genrec", "genrec", "popular", "genrec"]
    assert joined.ordered(None) is fused


def test_what_has_no_weight_does_not_count() -> None:
    fused = fuse([GENREC, POPULAR], [1.0, 1.0], rrf_k=60, limit=4)
    joined = Joined(lists=[GENREC, POPULAR], fused=fused, ranker=None, ranker_weight=1.0, rrf_k=60)
    assert joined.ordered(Blend(weights={"popular": 1.0})).items_BF[0, 0] == 9


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9))
def test_relative_scores_equal_a_search_one_by_one(seed: int, rows: int, depth: int, asked: int) -> None:
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(12)[:depth] for _ in range(rows)])
    scores = -np.sort(rng.random((rows, depth)).astype(np.float32), axis=1)
    gone = rng.random((rows, depth)) < 0.3
    items[gone], scores[gone] = NO_ITEM, -np.inf
    entry = Candidates(items_BK=items, scores_BK=scores, source="two_tower")
    items_BF = np.stack([rng.permutation(14)[:asked] for _ in range(rows)]) - 1
    found_BF = relative_scores([entry], items_BF, None)[0][:, :, 0]
    for row in range(rows):
        told = {int(item): float(score) for item, score in zip(items[row], scores[row], strict=True) if item >= 0}
        best, last = (max(told.values()), min(told.values())) if told else (0.0, 0.0)
        for column, item in enumerate(items_BF[row]):
            expected = 0.0 if item == NO_ITEM else told.get(int(item), last) - best
            assert found_BF[row, column] == pytest.approx(expected, abs=1e-6)
