"""GenRec's retriever: exclusions, collided IDs and the order of items behind one ID."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests

from features.semantic_ids import Catalogue
from models.genrec.batch import pack_prompts
from models.genrec.config import DecodeConfig
from models.genrec.decode import beam_search
from models.recommend.genrec_retriever import GenRecRetriever


def test_full_ranking_lists_every_item_once() -> None:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng, items=100)  # 64 possible IDs: many collide
    retriever = GenRecRetriever(make_model(catalogue), catalogue, DecodeConfig(beams=64, batch_size=2))
    found = retriever.retrieve(make_requests(rng, catalogue, [3, 0, 5]), 120)
    for items, scores in zip(found.items_BK, found.scores_BK, strict=True):
        assert sorted(items[:100].tolist()) == list(range(100))
        assert (items[100:] == -1).all()
        assert (scores[100:] == -np.inf).all()
        assert (np.diff(scores[:100]) <= 0).all()


def test_items_of_one_id_come_by_popularity_without_the_excluded() -> None:
    catalogue = Catalogue(
        ["a", "b", "c", "d"], np.array([[0, 0], [0, 0], [0, 0], [1, 1]]), (2, 2), np.array([1, 3, 2, 0])
    )
    model = make_model(catalogue)
    rng = np.random.default_rng(0)
    requests = dataclasses.replace(
        make_requests(rng, catalogue, [1, 1]),
        excluded_items=np.array([1, 0, 1, 2]),
        excluded_offsets=np.array([0, 1, 4]),
    )
    found = GenRecRetriever(model, catalogue, DecodeConfig(beams=4)).retrieve(requests, 4)
    assert [i for i in found.items_BK[0].tolist() if i in (0, 1, 2)] == [2, 0]
    assert found.items_BK[1].tolist() == [3, -1, -1, -1]
    everything = dataclasses.replace(
        requests, excluded_items=np.tile(np.arange(4), 2), excluded_offsets=np.array([0, 4, 8])
    )
    found = GenRecRetriever(model, catalogue, DecodeConfig(beams=4)).retrieve(everything, 4)
    assert (found.items_BK == -1).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_exclusions_equal_leaving_items_out_of_the_full_ranking(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    catalogue = make_catalogue(rng, items=100)
    retriever = GenRecRetriever(make_model(catalogue), catalogue, DecodeConfig(beams=64))
    requests = make_requests(rng, catalogue, [3, 0, 8])
    ranked = retriever.retrieve(requests, 100).items_BK
    forbidden = [rng.choice(100, int(share * 100)) for _ in range(3)]  # an item may be excluded twice
    requests = dataclasses.replace(
        requests,
        excluded_items=np.concatenate(forbidden),
        excluded_offsets=np.arange(4) * int(share * 100),
    )
    found = retriever.retrieve(requests, 20).items_BK
    for row in range(3):
        expected = [item for item in ranked[row].tolist() if item not in forbidden[row]][:20]
        assert found[row].tolist() == expected + [-1] * (20 - len(expected))


def test_items_appended_after_training_are_proposed_and_read() -> None:
    rng = np.random.default_rng(2)
    old = make_catalogue(rng, items=20)
    model = make_model(old)
    more = rng.integers(0, 4, (5, 3))
    codes_NL = np.concatenate([old.codes_NL, more])
    catalogue = Catalogue([f"i{n}" for n in range(25)], codes_NL, (4, 4, 4))
    retriever = GenRecRetriever(model, catalogue, DecodeConfig(beams=64))
    requests = make_requests(rng, catalogue, [2, 2])
    requests.history_items[:] = [22, 24, 3, 24]
    assert sorted(retriever.retrieve(requests, 25).items_BK[0].tolist()) == list(range(25))
    prompts = pack_prompts(requests, catalogue, model.config)
    with torch.no_grad():
        side_HD = model._side_vectors(prompts)
        bare_HD = model.event_embedding(prompts.history_events_H) + model.history_gap_embedding(prompts.history_gaps_H)
    assert torch.equal((side_HD == bare_HD).all(dim=1), torch.tensor([True, True, False, True]))


def test_hallucination_rate_counts_missing_ids() -> None:
    rng = np.random.default_rng(1)
    catalogue = make_catalogue(rng)
    retriever = GenRecRetriever(make_model(catalogue), catalogue, DecodeConfig(batch_size=2))
    requests = make_requests(rng, catalogue, [3, 0, 5])
    assert retriever.hallucination_rate(requests, beams=64) == pytest.approx(1 - len(catalogue.sids_SL) / 64)
    assert retriever.hallucination_rate(requests.take(np.zeros(0, np.int64))) == 0.0


def test_ids_are_scored_by_the_rule_of_the_settings() -> None:
    rng = np.random.default_rng(4)
    catalogue = make_catalogue(rng, items=12)  # of 64 possible IDs: much probability leads nowhere
    model, requests = make_model(catalogue), make_requests(rng, catalogue, [3, 0])
    prompts = pack_prompts(requests, catalogue, model.config)
    best = []
    for renormalize in (False, True):
        retriever = GenRecRetriever(model, catalogue, DecodeConfig(beams=12, renormalize=renormalize))
        found = retriever.retrieve(requests, 1).scores_BK
        expected = beam_search(model, prompts, retriever.trie, 12, renormalize=renormalize).scores_BK[:, :1]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        best.append(found)
    assert (best[1] > best[0]).all()


def test_another_vocabulary_is_refused() -> None:
    rng = np.random.default_rng(0)
    model = make_model(make_catalogue(rng))
    with pytest.raises(ValueError, match=r"trained on codes \(4, 4, 4\) per level, the catalogue has \(5, 4, 4\)"):
        GenRecRetriever(model, make_catalogue(rng, codes=(5, 4, 4)), DecodeConfig())
