from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recommend.fusion import fuse, rerank, stacked
from models.recommend.interface import NO_ITEM, Candidates


def ranked(source: str, rows: list[list[int]], width: int) -> Candidates:
    items_BK = np.array([row + [NO_ITEM] * (width - len(row)) for row in rows], dtype=np.int64)
    return Candidates(items_BK=items_BK, scores_BK=np.zeros(items_BK.shape, dtype=np.float32), source=source)


def slow_fuse(
    rows: list[list[int]], weights: list[float], rrf_k: float, limit: int
) -> list[tuple[int, float, list[float]]]:
    """One request, by the formula: (item, score, contribution of each list), best first."""
    total = sum(weight for weight, row in zip(weights, rows, strict=True) if row)
    parts: dict[int, list[float]] = {}
    for number, (weight, row) in enumerate(zip(weights, rows, strict=True)):
        for rank, item in enumerate(row, start=1):
            parts.setdefault(item, [0.0] * len(rows))[number] = weight / total * (rrf_k + 1) / (rrf_k + rank)
    as_float32 = {item: float(np.array(part, dtype=np.float32).sum()) for item, part in parts.items()}
    ordered = sorted(parts, key=lambda item: -as_float32[item])  # stable: first appearance decides among equals
    return [(item, as_float32[item], parts[item]) for item in ordered[:limit]]


def test_scores_are_the_weighted_mean_of_damped_ranks():
    fused = fuse([ranked("a", [[7, 3]], 2), ranked("b", [[3]], 2)], weights=[1.0, 3.0], rrf_k=1.0, limit=3)
    assert fused.items_BF.tolist() == [[3, 7, NO_ITEM]]
    # item 3: rank 2 of a, rank 1 of b; item 7: rank 1 of a
    assert fused.scores_BF[0].tolist() == pytest.approx([1 / 4 * 2 / 3 + 3 / 4, 1 / 4, 0.0])
    assert fused.parts_BFR[0, 0].tolist() == pytest.approx([1 / 4 * 2 / 3, 3 / 4])


def test_a_list_that_says_nothing_takes_no_share():
    fused = fuse([ranked("a", [[]], 2), ranked("b", [[5]], 2)], weights=[1.0, 0.01], rrf_k=60, limit=2)
    assert fused.items_BF.tolist() == [[5, NO_ITEM]]
    assert fused.scores_BF[0].tolist() == [1.0, 0.0]


def test_no_list_says_anything():
    fused = fuse([ranked("a", [[]], 1)], weights=[1.0], rrf_k=60, limit=2)
    assert fused.items_BF.tolist() == [[NO_ITEM, NO_ITEM]]


def test_reranking_adds_a_damped_rank_to_each_score_and_orders_anew():
    fused = fuse([ranked("a", [[7, 3, 5], [4]], 3)], weights=[1.0], rrf_k=0.0, limit=4)  # scores 1, 1/2, 1/3
    scores_BF = np.array([[0.1, 0.9, 0.5, -np.inf], [0.3, -np.inf, -np.inf, -np.inf]], dtype=np.float32)
    again = rerank(fused, scores_BF, "ranker", weight=2.0, rrf_k=0.0)  # ranks 3, 1, 2
    assert again.items_BF.tolist() == [[3, 7, 5, NO_ITEM], [4, NO_ITEM, NO_ITEM, NO_ITEM]]
    assert again.scores_BF[0] == pytest.approx([(1 / 2 + 2) / 3, (1 + 2 / 3) / 3, (1 / 3 + 2 / 2) / 3, 0])
    assert again.sources == ("a", "ranker")
    np.testing.assert_allclose(again.parts_BFR[0, 0], [1 / 2 / 3, 2 / 3])
    np.testing.assert_allclose(again.parts_BFR.sum(axis=2), again.scores_BF, rtol=1e-6)
    assert again.scores_BF[1].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_equal_scores_of_a_ranker_keep_the_order_of_the_fusion():
    fused = fuse([ranked("a", [[7, 3, 5]], 3)], weights=[1.0], rrf_k=60.0, limit=3)
    again = rerank(fused, np.zeros((1, 3), dtype=np.float32), "ranker", weight=1.0, rrf_k=60.0)
    assert again.items_BF.tolist() == [[7, 3, 5]]


rows = st.lists(st.integers(0, 9), max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.tuples(rows, rows, rows), min_size=1, max_size=5),
    weights=st.tuples(*[st.floats(0.01, 2.0)] * 3),
    limit=st.integers(1, 12),
)
def test_equals_the_slow_reference(requests, weights, limit):
    lists = [ranked(name, [request[number] for request in requests], 6) for number, name in enumerate("abc")]
    fused = fuse(lists, weights, rrf_k=60.0, limit=limit)
    for row, request in enumerate(requests):
        expected = slow_fuse(list(request), list(weights), 60.0, limit)
        count = len(expected)
        assert (fused.items_BF[row, count:] == NO_ITEM).all()
        np.testing.assert_allclose(fused.scores_BF[row, :count], [score for _, score, _ in expected], rtol=1e-5)
        for place, (item, _, parts) in enumerate(expected):
            found = np.flatnonzero(fused.items_BF[row] == item)
            if not len(found):  # cut off by the limit in favour of one with the same score
                continue
            assert fused.scores_BF[row, found[0]] == pytest.approx(fused.scores_BF[row, place], rel=1e-5)
            np.testing.assert_allclose(fused.parts_BFR[row, found[0]], parts, rtol=1e-5)


def test_rows_taken_apart_and_stacked_again_are_the_same():
    fused = fuse([ranked("a", [[7, 3, 5], [2, NO_ITEM, NO_ITEM]], 3)], weights=[1.0], rrf_k=60.0, limit=4)
    rows = [fused.row(0), fused.row(1)]
    assert [row.items_BF.tolist() for row in rows] == [[[7, 3, 5]], [[2]]]
    again = stacked(rows)
    assert again.items_BF.tolist() == [[7, 3, 5], [2, NO_ITEM, NO_ITEM]]
    for name in ("items_BF", "scores_BF", "parts_BFR", "named_BF"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fused, name)[:, :3])
