"""Semantic-ID and item probabilities joined: equal to scoring everything where the beams cover all, else floored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from features.semantic_ids import Catalogue
from models.genrec.batch import pack_prompts
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.decode import beam_search, exhaustive_scores
from models.genrec.item_level import item_logits
from models.genrec.model import GenRec
from models.recommend.eligibility import Eligibility
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import RequestBatch
from models.recommend.item_blend import Found, ItemBlend

ITEMS, WIDTH = 60, 6


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    rng = np.random.default_rng(0)
    codes_NL = rng.integers(0, 4, (ITEMS, 3))  # 64 possible IDs: some collide
    vectors_NV = rng.normal(size=(ITEMS, WIDTH))
    return Catalogue([f"i{n}" for n in range(ITEMS)], codes_NL, (4, 4, 4), rng.random(ITEMS), lambda: vectors_NV)


@pytest.fixture(scope="module")
def model(catalogue) -> GenRec:
    config = GenRecConfig(
        layers=1, width=16, heads=2, kv_heads=1, ffn_width=16, max_history=6, item_vectors=True, item_head=1.0
    )
    torch.manual_seed(0)
    model = GenRec(config, catalogue.vocabulary, ITEMS, vector_width=WIDTH)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def make_requests() -> RequestBatch:
    return RequestBatch(
        user_ids=["a", "b", "c"],
        times_B=np.full(3, 100),
        history_items=np.array([3, 7, 9, 11]),
        history_events=np.full(4, 2, np.int8),
        history_times=np.array([1, 2, 3, 4]),
        history_offsets=np.array([0, 3, 3, 4]),
        excluded_items=np.array([5]),
        excluded_offsets=np.array([0, 1, 1, 1]),
        eligible=Eligibility.of([np.ones(ITEMS), np.arange(ITEMS) % 2 == 0], [0, 0, 1]),
    )


def parts(model: GenRec, catalogue: Catalogue, requests: RequestBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probability of each item's semantic ID and of each item, `[B, N]`, the slow way."""
    prompts = pack_prompts(requests, catalogue, model.config)
    sid_BS = exhaustive_scores(model, prompts, torch.from_numpy(catalogue.sids_SL).long()).numpy()
    with torch.no_grad():
        hidden_BD = model.hidden(prompts)[0].flatten(0, 1)[prompts.page_places_P]
        keys_ND = model.item_keys(torch.from_numpy(catalogue.item_vectors))
        item_BN = (model.item_level.queries(hidden_BD) @ keys_ND.T).log_softmax(dim=1).numpy()
    return sid_BS[:, catalogue.sid_of_item_N], item_BN


def permitted(requests: RequestBatch) -> np.ndarray:
    rows, items = np.divmod(np.arange(len(requests) * ITEMS), ITEMS)
    return requests.permits(rows, items).reshape(len(requests), ITEMS)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_with_all_beams_every_item_has_the_sum_of_both(model, catalogue, weight) -> None:
    requests = make_requests()
    config = DecodeConfig(beams=64, item_weight=weight, batch_size=2)
    found = GenRecRetriever(model, catalogue, config).retrieve(requests, ITEMS)
    sid_BN, item_BN = parts(model, catalogue, requests)
    expected_BN = np.where(permitted(requests), sid_BN + weight * item_BN, -np.inf)
    np.testing.assert_allclose(found.scores_BK, -np.sort(-expected_BN, axis=1), rtol=1e-4)
    for row, items in enumerate(found.items_BK):
        kept = items[items >= 0]
        assert sorted(kept.tolist()) == np.flatnonzero(permitted(requests)[row]).tolist()
        np.testing.assert_allclose(expected_BN[row, kept], found.scores_BK[row, : len(kept)], rtol=1e-4)


def test_items_that_only_the_head_proposes_count_as_the_worst_beam(model, catalogue) -> None:
    requests = make_requests()
    retriever = GenRecRetriever(model, catalogue, DecodeConfig(beams=4, item_candidates=7))
    found = retriever.retrieve(requests, 4)
    prompts = pack_prompts(requests, catalogue, model.config)
    beams = beam_search(model, prompts, retriever.trie, 4, retriever.filter.allowed(requests))
    sid_BN, item_BN = parts(model, catalogue, requests)
    reached_BN = (catalogue.sid_of_item_N[None, :, None] == beams.sids_BK.numpy()[:, None]).any(axis=2)
    allowed_item_BN = np.where(permitted(requests), item_BN, -np.inf)
    own_BN = allowed_item_BN >= -np.sort(-allowed_item_BN, axis=1)[:, 6:7]
    assert (own_BN & ~reached_BN).any(axis=1).all()
    known_BN = np.where(reached_BN, sid_BN, beams.scores_BK.numpy()[:, -1:])
    expected_BN = np.where(permitted(requests) & (reached_BN | own_BN), known_BN + item_BN, -np.inf)
    np.testing.assert_allclose(found.scores_BK, -np.sort(-expected_BN, axis=1)[:, :4], rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_few_requests_at_a_time_find_what_all_at_once_do(model, catalogue, monkeypatch, seed) -> None:
    rng = np.random.default_rng(seed)
    size, most = int(rng.integers(2, 9)), int(rng.integers(1, 4))
    requests = make_requests().take(rng.integers(3, size=size))
    counts_B = rng.integers(5, size=size)
    rows = np.repeat(np.arange(size), counts_B)
    items = np.concatenate([np.sort(rng.choice(ITEMS, count, replace=False)) for count in counts_B])
    found = Found(rows, items, -rng.random(len(rows), dtype=np.float32))
    hidden_BD = torch.from_numpy(rng.normal(size=(size, 16)).astype(np.float32))
    blend = ItemBlend(model, catalogue, DecodeConfig(item_candidates=int(rng.integers(8))))
    whole = blend(found, hidden_BD, requests)
    shapes = []
    monkeypatch.setattr("models.recommend.item_blend.LOGITS", most * ITEMS + 1)
    monkeypatch.setattr(
        "models.recommend.item_blend.item_logits",
        lambda *given: shapes.append(given[1].shape[0]) or item_logits(*given),
    )
    parts = blend(found, hidden_BD, requests)
    assert sum(shapes) == size
    assert max(shapes) <= most
    assert whole.rows_X.tolist() == parts.rows_X.tolist()
    assert whole.items_X.tolist() == parts.items_X.tolist()
    np.testing.assert_allclose(whole.scores_X, parts.scores_X, rtol=1e-5)


def test_a_blend_by_hand(model, catalogue, monkeypatch) -> None:
    """Beams found b and c, the head gives a, b, c and d 1/8, 2/8, 4/8 and 1/8."""
    four = Catalogue(["a", "b", "c", "d"], catalogue.codes_NL[:4], (4, 4, 4), None, lambda: catalogue.item_vectors[:4])
    blend = ItemBlend(model, four, DecodeConfig(item_weight=2.0, item_candidates=3))
    logits_BN = torch.tensor([[1.0, 2, 4, 1]]).log()
    monkeypatch.setattr("models.recommend.item_blend.item_logits", lambda *_: logits_BN)
    requests = dataclasses.replace(make_requests().take(np.array([1])), eligible=None)
    requests = requests.excluding(np.array([0]), np.array([3]))
    before = Found(np.array([0, 0]), np.array([1, 2]), np.log(np.array([0.9, 0.1], np.float32)))
    after = blend(before, torch.zeros(1, 16), requests)
    # b: .9 (2/8)^2 = .05625, c: .1 (4/8)^2 = .025, a as the worst beam: .1 (1/8)^2; d is excluded
    assert after.items_X.tolist() == [1, 2, 0]
    np.testing.assert_allclose(np.exp(after.scores_X), [0.05625, 0.025, 0.0015625], rtol=1e-5)
