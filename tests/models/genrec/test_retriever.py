"""GenRec's retriever: exclusions, collided IDs and the order of items behind one ID."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from genrec_cases import make_catalogue, make_model, make_requests

from features.semantic_ids import Catalogue
from models.genrec.config import DecodeConfig
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
    gone = GenRecRetriever(model, catalogue, DecodeConfig(beams=4), withdrawn_N=np.array([True, True, True, True]))
    assert (gone.retrieve(requests, 4).items_BK == -1).all()


def test_hallucination_rate_counts_missing_ids() -> None:
    rng = np.random.default_rng(1)
    catalogue = make_catalogue(rng)
    retriever = GenRecRetriever(make_model(catalogue), catalogue, DecodeConfig(batch_size=2))
    requests = make_requests(rng, catalogue, [3, 0, 5])
    assert retriever.hallucination_rate(requests, beams=64) == pytest.approx(1 - len(catalogue.sids_SL) / 64)
    assert retriever.hallucination_rate(requests.take(np.zeros(0, np.int64))) == 0.0


def test_another_vocabulary_is_refused() -> None:
    rng = np.random.default_rng(0)
    model = make_model(make_catalogue(rng))
    with pytest.raises(ValueError, match=r"trained on codes \(4, 4, 4\) per level, the catalogue has \(5, 4, 4\)"):
        GenRecRetriever(model, make_catalogue(rng, codes=(5, 4, 4)), DecodeConfig())
