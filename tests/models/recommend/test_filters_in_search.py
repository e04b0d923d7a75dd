"""Filters and exclusions inside the search: every retriever against asking all items of a random catalogue one by one.

Legend: `N` items, `B` requests, `K` candidates.
"""

from __future__ import annotations

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recommend_cases import DAY, NOON, batch, passes, random_facts, random_filters

from features.semantic_ids import Catalogue
from kernels.trie import Trie
from models.genrec.batch import pack_prompts
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.decode import beam_search
from models.genrec.model import GenRec
from models.recommend.config import RecommendConfig
from models.recommend.eligibility import Eligibility
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.recommender import Recommender
from models.recommend.retrievers import PopularRetriever, TransitionsRetriever
from models.recommend.rules import CatalogueFacts, Filters, with_rules
from models.recommend.sid_filter import SidFilter
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.recommend.vector_index_config import IndexConfig

CODES, REQUESTS, WIDTH = (3, 2, 4), 6, 4
SEEDS = st.integers(0, 100_000)


class FixedUsers:
    """Users stand where their number says."""

    def __init__(self, vectors_BD: np.ndarray) -> None:
        self.vectors_BD = vectors_BD

    def user_vectors(self, requests: RequestBatch, catalogue: Catalogue) -> np.ndarray:
        return self.vectors_BD[[int(user[1:]) for user in requests.user_ids]]


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class World:
    """A catalogue with facts, requests with filters, and per request the items that it may get."""

    catalogue: Catalogue
    facts: CatalogueFacts
    popularity_N: np.ndarray
    plain: RequestBatch
    filters: list[Filters | None]
    ruled: RequestBatch
    free: list[list[int]]


def make_world(seed: int, exclude_seen: bool = True) -> World:
    rng = np.random.default_rng(seed)
    items = int(rng.integers(3, 40))
    codes_NL = np.stack([rng.integers(0, size, items) for size in CODES], axis=1)
    popularity_N = rng.integers(0, 5, items).astype(float)
    catalogue = Catalogue([f"i{number}" for number in range(items)], codes_NL, CODES, popularity_N)
    facts = random_facts(rng, items, catalogue)
    histories = [rng.integers(0, items, rng.integers(0, 5)).tolist() for _ in range(REQUESTS)]
    given_items = [rng.integers(0, items, rng.integers(0, items)).tolist() for _ in range(REQUESTS)]
    plain = dataclasses.replace(batch(histories, excluded=given_items), times_B=NOON + rng.integers(-2, 4, 6) * DAY)
    filters = [random_filters(rng) for _ in range(REQUESTS)]
    rows = facts.table.to_pylist()
    free = [
        [
            item
            for item in range(items)
            if passes(rows[item], int(plain.times_B[row]), filters[row])
            and item not in given_items[row]
            and not (exclude_seen and item in histories[row])
        ]
        for row in range(REQUESTS)
    ]
    return World(catalogue, facts, popularity_N, plain, filters, with_rules(plain, facts, filters, exclude_seen), free)


def transitions_of(world: World, seed: int) -> TransitionsRetriever:
    rng, items = np.random.default_rng(seed), len(world.catalogue)
    weights_NN = rng.random((items, items)) * (rng.random((items, items)) < 0.3)
    return TransitionsRetriever(sp.csr_matrix(weights_NN), world.popularity_N)


def genrec_of(world: World, seed: int, beams: int) -> GenRecRetriever:
    shape = GenRecConfig(layers=1, width=8, heads=2, kv_heads=1, ffn_width=8, max_history=4)
    torch.manual_seed(seed)
    model = GenRec(shape, world.catalogue.vocabulary, len(world.catalogue))
    for parameter in model.parameters():  # zero and tiny initial values would hide mistakes
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return GenRecRetriever(model, world.catalogue, DecodeConfig(beams=beams, batch_size=4))


def listed(items_K: np.ndarray) -> list[int]:
    return items_K[items_K != NO_ITEM].tolist()


@given(seed=SEEDS, k=st.integers(1, 45), exclude_seen=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_popular_list_equals_sorting_what_each_request_may_get(seed: int, k: int, exclude_seen: bool) -> None:
    world = make_world(seed, exclude_seen)
    found = PopularRetriever(world.popularity_N).retrieve(world.ruled, k)
    for row, free in enumerate(world.free):
        expected = sorted(free, key=lambda item: (-world.popularity_N[item], item))[:k]
        assert listed(found.items_BK[row]) == expected
        assert found.scores_BK[row, : len(expected)].tolist() == world.popularity_N[expected].tolist()


def test_few_of_many_items_are_found_at_the_end_of_the_popular_list() -> None:
    """The list is walked in steps, or what passes is sorted: the same answer whatever the share and the place."""
    rng = np.random.default_rng(0)
    popular = PopularRetriever(rng.random(20_000))
    for share in (0.0001, 0.01, 0.3):
        allowed_N = np.zeros(20_000, dtype=bool)
        allowed_N[popular.order_N[-int(20_000 * share) :]] = True  # the least popular
        requests = dataclasses.replace(batch([[]], excluded=[[7]]), eligible=Eligibility.of([allowed_N], [0]))
        expected = [item for item in popular.order_N.tolist() if allowed_N[item] and item != 7][:5]
        assert listed(popular.retrieve(requests, 5).items_BK[0]) == expected


@given(seed=SEEDS, k=st.integers(1, 45))
@settings(max_examples=40, deadline=None)
def test_transitions_equal_what_is_left_of_their_whole_list(seed: int, k: int) -> None:
    world = make_world(seed)
    transitions, none = transitions_of(world, seed), np.zeros(0, np.int64)
    nothing = dataclasses.replace(world.plain, excluded_items=none, excluded_offsets=np.zeros(REQUESTS + 1, np.int64))
    whole = transitions.retrieve(nothing, len(world.catalogue))
    found = transitions.retrieve(world.ruled, k)
    for row, free in enumerate(world.free):
        kept = np.isin(whole.items_BK[row], free)
        assert listed(found.items_BK[row]) == whole.items_BK[row][kept][:k].tolist()
        scores = found.scores_BK[row][found.items_BK[row] != NO_ITEM]
        np.testing.assert_allclose(scores, whole.scores_BK[row][kept][:k], rtol=1e-6)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@given(seed=SEEDS, k=st.integers(1, 45))
@settings(max_examples=30, deadline=None)
def test_the_two_tower_equals_scoring_what_each_request_may_get(kind: str, seed: int, k: int) -> None:
    world, rng = make_world(seed), np.random.default_rng(seed)
    users_BD, vectors_ND = unit(rng, REQUESTS), unit(rng, len(world.catalogue))
    ids = world.catalogue.item_ids
    config = IndexConfig(kind=kind, ef_search=64)  # as many as there are: the graph is exact, too
    found = TwoTowerRetriever.build(FixedUsers(users_BD), vectors_ND, ids, world.catalogue, config).retrieve(
        world.ruled, k
    )
    for row, free in enumerate(world.free):
        scores = vectors_ND[free] @ users_BD[row]
        expected = [free[place] for place in np.argsort(-scores, kind="stable")[:k]]
        assert listed(found.items_BK[row]) == expected


@pytest.mark.integration
@given(seed=SEEDS, k=st.integers(1, 8), beams=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_genrec_equals_a_search_over_a_trie_of_only_what_each_request_may_get(seed: int, k: int, beams: int) -> None:
    world = make_world(seed)
    retriever, catalogue = genrec_of(world, seed, beams), world.catalogue
    found = retriever.retrieve(world.ruled, k)
    prompts = pack_prompts(world.plain, catalogue, retriever.model.config)
    for row, free in enumerate(world.free):
        if not free:
            assert listed(found.items_BK[row]) == []
            continue
        sids = np.unique(catalogue.sid_of_item_N[free])
        best = beam_search(retriever.model, prompts, Trie.from_sorted(catalogue.sids_SL[sids]), max(k, beams))
        expected, scores = [], []
        for sid, score in zip(best.sids_BK[row].tolist(), best.scores_BK[row].tolist(), strict=True):
            start, end = catalogue.offsets[sids[sid]], catalogue.offsets[sids[sid] + 1]
            behind = [item for item in catalogue.items[start:end].tolist() if sid >= 0 and item in free]
            expected, scores = expected + behind, scores + [score] * len(behind)
        assert listed(found.items_BK[row]) == expected[:k]
        np.testing.assert_allclose(found.scores_BK[row, : len(expected[:k])], scores[:k], rtol=1e-5)


@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_reachable_ids_are_those_with_an_item_that_the_request_may_get(seed: int) -> None:
    world = make_world(seed)
    ids = len(world.catalogue.sids_SL)
    allowed = SidFilter(world.catalogue).allowed(world.ruled)
    assert allowed is not None
    starts = torch.arange(ids).expand(REQUESTS, ids)
    reachable_BS = allowed.below(starts, starts + 1)
    for row, free in enumerate(world.free):
        expected = np.isin(np.arange(ids), world.catalogue.sid_of_item_N[free])
        assert reachable_BS[row].tolist() == expected.astype(int).tolist()


def test_rows_of_masks_that_are_gone_are_used_again() -> None:
    world = make_world(1)
    sid_filter, catalogue, rng = SidFilter(world.catalogue), world.catalogue, np.random.default_rng(1)
    everywhere = torch.arange(len(catalogue.sids_SL))[None].expand(2, -1)
    for _ in range(20):
        masks_FN = rng.random((2, len(catalogue))) < 0.5
        requests = dataclasses.replace(batch([[], []]), eligible=Eligibility.of(masks_FN, [1, 0]))
        allowed = sid_filter.allowed(requests)
        assert allowed is not None
        reachable_BS = allowed.below(everywhere, everywhere + 1)
        for row, mask_N in enumerate(masks_FN[::-1]):
            sids = np.unique(catalogue.sid_of_item_N[mask_N])
            assert np.flatnonzero(reachable_BS[row]).tolist() == sids.tolist()
        assert len(allowed.counts_FS) <= 4  # two of this batch; those of the batch before may still be there
        del requests, allowed


def test_threads_may_ask_at_once() -> None:
    """A page maker that is about to be served is asked once beside the one that is, and shares its filter."""
    codes_NL = np.random.default_rng(0).integers(0, 32, (20_000, 3))
    catalogue = Catalogue([f"i{number}" for number in range(len(codes_NL))], codes_NL, (32, 32, 32))
    sid_filter = SidFilter(catalogue)

    def right(seed: int) -> bool:
        mask_N = np.random.default_rng(seed).random(len(catalogue)) < 0.5
        requests = dataclasses.replace(batch([[]]), eligible=Eligibility.of(mask_N[None], [0]))
        allowed = sid_filter.allowed(requests)
        assert allowed is not None
        kept.append(requests)
        return int(allowed.counts_FS[allowed.filter_B[0], -1]) == len(np.unique(catalogue.sid_of_item_N[mask_N]))

    kept: list[RequestBatch] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as threads:
            assert all(threads.map(right, range(400)))
    finally:
        sys.setswitchinterval(interval)


def test_requests_without_filter_and_exclusion_search_freely() -> None:
    world = make_world(0)
    assert SidFilter(world.catalogue).allowed(batch([[0], []])) is None


@given(seed=SEEDS, size=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_pages_hold_what_each_request_may_get_and_a_reason_where_that_is_less_than_asked(seed: int, size: int) -> None:
    world = make_world(seed)
    retrievers = [
        PopularRetriever(world.popularity_N),
        transitions_of(world, seed),
        genrec_of(world, seed, beams=8),
    ]
    config = RecommendConfig(candidates=5)
    pages = Recommender(world.catalogue, retrievers, config, world.facts).pages(
        world.plain, size, filters=world.filters
    )
    for page, free in zip(pages, world.free, strict=True):
        assert set(world.catalogue.numbers(page.items).tolist()) <= set(free)
        assert len(set(page.items)) == len(page.items) == min(size, len(free))
        assert (page.reason is not None) == (len(free) < size)
        assert (page.reason or "no item").startswith(("no item", "every item") if not free else ("", "no item"))
