"""The index over item vectors against scoring every allowed item."""

from __future__ import annotations

import numpy as np
import pytest

from models.recommend.index_report import compare_indexes
from models.recommend.interface import NO_ITEM
from models.recommend.vector_answers import AllowedEntries
from models.recommend.vector_index import VectorIndex, one_thread
from models.recommend.vector_index_config import KINDS, IndexConfig

ITEMS, WIDTH = 600, 8
CONFIGS = {
    "flat": IndexConfig(),
    "hnsw": IndexConfig(kind="hnsw", hnsw_m=8, ef_construction=40, ef_search=32),
    "ivf_pq": IndexConfig(kind="ivf_pq", lists=12, probes=4, pq_bytes=4),
}


def unit(rng: np.random.Generator, rows: int, width: int = WIDTH) -> np.ndarray:
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit(np.random.default_rng(0), ITEMS)


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest) -> VectorIndex:
    return VectorIndex.build(VECTORS, CONFIGS[request.param])


def jagged(excluded: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    flat = np.array([item for row in excluded for item in row], dtype=np.int64)
    return flat, np.cumsum([0, *map(len, excluded)])


def known_vectors(index: VectorIndex) -> np.ndarray:
    """What the index knows of the vectors: themselves, or what is left after compression."""
    if index.kind != "ivf_pq":
        return VECTORS
    lists = VectorIndex.from_bytes(index.to_bytes())._index  # a copy: the map would change what is written
    lists.make_direct_map()
    return np.stack([lists.reconstruct(number) for number in range(ITEMS)])


def exhaustive(vectors: np.ndarray, query: np.ndarray, k: int, excluded: list[int]) -> list[int]:
    scores = vectors @ query
    return [item for item in np.argsort(-scores, kind="stable").tolist() if item not in set(excluded)][:k]


@pytest.mark.parametrize("k", [1, 7, ITEMS, ITEMS + 5])
def test_every_request_gets_as_many_allowed_items_as_there_are(index: VectorIndex, k: int) -> None:
    rng = np.random.default_rng(k)
    queries = unit(rng, 7)
    nearest = np.argsort(-queries[2] @ VECTORS.T)
    excluded = [
        [],
        [3, 3, 5],
        nearest[:400].tolist(),
        list(range(ITEMS)),
        [item for item in range(ITEMS) if item != 6],
        rng.integers(0, ITEMS, 300).tolist(),
        [item for item in range(ITEMS) if item % 100],
    ]
    items, scores = index.search(queries, k, *jagged(excluded))
    assert items.shape == scores.shape == (7, k)
    assert (items.dtype, scores.dtype) == (np.int64, np.float32)
    for row, out in enumerate(excluded):
        real = items[row][items[row] != NO_ITEM]
        assert len(real) == min(k, ITEMS - len(set(out))), row
        assert len(set(real.tolist())) == len(real)
        assert not set(real.tolist()) & set(out)
        assert (items[row][: len(real)] == real).all()
        assert (np.isneginf(scores[row]) == (items[row] == NO_ITEM)).all()
        assert (np.diff(scores[row][: len(real)]) <= 0).all()


def test_flat_equals_scoring_every_allowed_item() -> None:
    rng = np.random.default_rng(1)
    index, queries = VectorIndex.build(VECTORS, CONFIGS["flat"]), unit(rng, 40)
    excluded = [rng.integers(0, ITEMS, int(rng.integers(0, 500))).tolist() for _ in range(40)]
    items, scores = index.search(queries, 9, *jagged(excluded))
    for row, out in enumerate(excluded):
        assert items[row].tolist() == exhaustive(VECTORS, queries[row], 9, out)
        np.testing.assert_allclose(scores[row], VECTORS[items[row]] @ queries[row], rtol=1e-5)


def test_few_allowed_items_are_found_exactly_by_every_kind(index: VectorIndex) -> None:
    """Ten items far from the query are allowed: a graph walk or a look into some lists would not meet them."""
    rng = np.random.default_rng(2)
    queries = unit(rng, 5)
    allowed = [np.argsort(query @ VECTORS.T)[:10] for query in queries]
    excluded = [np.setdiff1d(np.arange(ITEMS), items).tolist() for items in allowed]
    items, _ = index.search(queries, 10, *jagged(excluded))
    known = known_vectors(index)
    for row in range(5):
        assert set(items[row].tolist()) == set(allowed[row].tolist())
        scores = known[items[row]] @ queries[row]
        assert (np.diff(scores) <= 1e-5).all()


@pytest.mark.parametrize("share", [0.0, 0.005, 0.1, 0.3, 0.9, 1.0])
def test_only_allowed_entries_are_found_and_all_of_them_where_few(index: VectorIndex, share: float) -> None:
    rng = np.random.default_rng(int(share * 1000))
    allowed_N = rng.permutation(ITEMS) < share * ITEMS
    queries = unit(rng, 12)
    excluded = [rng.integers(0, ITEMS, int(rng.integers(0, 40))).tolist() for _ in range(12)]
    items, scores = index.search(queries, 10, *jagged(excluded), AllowedEntries(allowed_N))
    known = known_vectors(index)
    for row, out in enumerate(excluded):
        left = np.setdiff1d(np.flatnonzero(allowed_N), out)
        real = items[row][items[row] != NO_ITEM]
        assert len(real) == len(set(real.tolist())) == min(10, len(left))
        assert set(real.tolist()) <= set(left.tolist())
        assert (np.isneginf(scores[row]) == (items[row] == NO_ITEM)).all()
        if index.kind == "flat" or 0 < share <= 0.1:  # compared one by one
            best = np.sort(known[left] @ queries[row])[::-1][:10]
            np.testing.assert_allclose(scores[row][: len(real)], best, rtol=1e-4, atol=1e-5)


def test_a_filter_that_leaves_only_what_lies_far_away_is_answered(index: VectorIndex) -> None:
    """A third is allowed, the third farthest from the query: nothing of it is near where the index looks."""
    query = VECTORS[:1]
    order = np.argsort(-query[0] @ VECTORS.T)
    allowed_N = np.zeros(ITEMS, dtype=bool)
    allowed_N[order[-ITEMS // 3 :]] = True
    items, _ = index.search(query, 5, allowed=AllowedEntries(allowed_N))
    assert (items != NO_ITEM).all()
    assert allowed_N[items].all()


def test_flags_of_another_index_are_refused(index: VectorIndex) -> None:
    with pytest.raises(ValueError, match=f"allowed: expected one flag per entry, {ITEMS}, got 3"):
        index.search(VECTORS[:1], 1, allowed=AllowedEntries(np.ones(3, dtype=bool)))


def test_answers_do_not_depend_on_what_is_asked_beside_them(index: VectorIndex) -> None:
    rng = np.random.default_rng(3)
    queries = unit(rng, 30)
    excluded = [rng.integers(0, ITEMS, int(rng.integers(0, 100))).tolist() for _ in range(30)]
    together, _ = index.search(queries, 10, *jagged(excluded))
    for row in range(30):
        alone, _ = index.search(queries[row : row + 1], 10, *jagged([excluded[row]]))
        assert alone[0].tolist() == together[row].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_come_by_number(kind: str) -> None:
    twice = np.concatenate([VECTORS[:300], VECTORS[:300]])
    items, _ = VectorIndex.build(twice, CONFIGS[kind]).search(VECTORS[:40], 2)
    if kind != "ivf_pq":
        assert items.tolist() == [[number, number + 300] for number in range(40)]
    else:
        assert (items[:, 0] < 300).mean() > 0.9  # where compression leaves the query's own entry in front


def test_no_query_and_no_exclusion(index: VectorIndex) -> None:
    assert index.search(np.zeros((0, WIDTH), np.float32), 3)[0].shape == (0, 3)
    assert (index.search(VECTORS[:2], 3)[0] != NO_ITEM).all()


def test_bytes_give_the_same_index_and_builds_repeat(index: VectorIndex) -> None:
    again = VectorIndex.from_bytes(index.to_bytes())
    assert (again.kind, len(again), again.width) == (index.kind, ITEMS, WIDTH)
    for ours, theirs in zip(index.search(VECTORS[:50], 5), again.search(VECTORS[:50], 5), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert VectorIndex.build(VECTORS, CONFIGS[index.kind]).to_bytes() == again.to_bytes()


def test_other_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected what was written by `to_bytes`, got 8 bytes"):
        VectorIndex.from_bytes(b"notfaiss")


@pytest.mark.integration
def test_recall_grows_with_what_is_looked_at() -> None:
    rng = np.random.default_rng(4)
    vectors, queries = unit(rng, 3_000, 16), unit(rng, 50, 16)
    configs = [
        IndexConfig(),
        IndexConfig(kind="hnsw", hnsw_m=4, ef_construction=20, ef_search=1),
        IndexConfig(kind="hnsw", hnsw_m=16, ef_search=200),
        IndexConfig(kind="ivf_pq", lists=30, probes=1, pq_bytes=8),
        IndexConfig(kind="ivf_pq", lists=30, probes=30, pq_bytes=16),
    ]
    report = compare_indexes(vectors, queries, configs, k=10)
    flat, poor, good, few, all_lists = report.rows
    assert (flat.recall, flat.name) == (1.0, "flat")
    assert poor.recall < good.recall
    assert good.recall > 0.99
    assert few.recall < all_lists.recall
    assert few.bytes < flat.bytes < good.bytes
    assert len(report.lines()) == 2 + len(configs)
    assert report.lines()[0].startswith("3,000 items of width 16, 50 queries")
    with pytest.raises(ValueError, match=r"1 <= k <= 3000, got 50 queries and k = 3001"):
        compare_indexes(vectors, queries, configs, k=3001)


def test_one_thread_is_given_back() -> None:
    import faiss

    faiss.omp_set_num_threads(2)
    with one_thread():
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == 2
    faiss.omp_set_num_threads(1)


def test_all_mistakes_of_a_configuration_are_told() -> None:
    with pytest.raises(ValueError, match="hnsw_m: expected at least 2, got 1") as caught:
        IndexConfig(kind="lsh", hnsw_m=1, lists=0, probes=0)
    message = str(caught.value)
    assert "kind: expected one of flat, hnsw, ivf_pq, got 'lsh'" in message
    assert "lists: expected at least 1 (or null), got 0" in message
    assert "probes: expected at least 1, got 0" in message


def test_vectors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of length 1, got 2 in row 1 \(1 such rows\)"):
        VectorIndex.build(VECTORS[:3] * np.array([[1.0], [2.0], [1.0]]), IndexConfig())
    with pytest.raises(ValueError, match=r"rows of length 1, got nan in row 0"):
        VectorIndex.build(np.full((2, 4), np.nan, np.float32), IndexConfig())
    with pytest.raises(ValueError, match=r"expected shape \[items, width\], got \[0, 8\]"):
        VectorIndex.build(VECTORS[:0], IndexConfig())
    with pytest.raises(ValueError, match="at least 256 items to train on, got 100; use flat") as caught:
        VectorIndex.build(VECTORS[:100], IndexConfig(kind="ivf_pq", pq_bytes=3))
    assert "pq_bytes: expected a divisor of the vectors' width 8, got 3" in str(caught.value)
    with pytest.raises(ValueError, match=r"expected shape \[B, 8\].* got \[2, 5\]"):
        VectorIndex.build(VECTORS, IndexConfig()).search(np.zeros((2, 5), np.float32), 1)
