"""The user's vector in the start token of a page: seen by this page's response alone, in training and in decoding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests, make_sequences

from features.semantic_ids import Catalogue
from kernels.trie import Trie
from models.genrec.batch import pack_prompts, pack_windows
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.data import make_windows, sequences_from_table
from models.genrec.decode import beam_search, exhaustive_scores
from models.genrec.model import GenRec
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import RequestBatch

WIDTH = 5


class LengthEncoder:
    """A user is how long the history is."""

    def user_vectors(self, requests: RequestBatch, catalogue: Catalogue) -> np.ndarray:
        angles_B = np.diff(requests.history_offsets) + np.arange(1.0, WIDTH + 1)[:, None]
        return np.cos(angles_B.T).astype(np.float32)


def test_without_a_prefix_nothing_changes() -> None:
    catalogue = make_catalogue(np.random.default_rng(0))
    plain, with_prefix = (make_untrained(catalogue, prefix) for prefix in (0, WIDTH))
    assert "user_projection.weight" not in plain.state_dict()
    assert set(with_prefix.state_dict()) == {*plain.state_dict(), "user_projection.weight"}
    requests = make_requests(np.random.default_rng(1), catalogue, [3, 0, 5])
    vectors = LengthEncoder().user_vectors(requests, catalogue)
    prompts = pack_prompts(requests, catalogue, plain.config, vectors)
    assert prompts.user_vectors_PU.shape == (3, 0)


def make_untrained(catalogue: Catalogue, prefix: int) -> GenRec:
    torch.manual_seed(0)
    return GenRec(GenRecConfig(layers=1, width=16, heads=2, user_prefix=prefix), catalogue.vocabulary, len(catalogue))


def test_an_untrained_projection_says_nothing() -> None:
    catalogue = make_catalogue(np.random.default_rng(0))
    model = make_untrained(catalogue, WIDTH).eval()
    requests = make_requests(np.random.default_rng(1), catalogue, [3, 0])
    vectors = LengthEncoder().user_vectors(requests, catalogue)
    with torch.no_grad():
        with_vectors = model.embed(pack_prompts(requests, catalogue, model.config, vectors))
        without = model.embed(pack_prompts(requests, catalogue, model.config, np.zeros_like(vectors)))
    assert torch.equal(with_vectors, without)


def test_a_page_sees_its_own_user_vector_only() -> None:
    rng = np.random.default_rng(3)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, user_prefix=WIDTH)
    data = sequences_from_table(make_sequences(rng, catalogue, users=1, pages=9), catalogue, model.config)
    assert data.pages > 2
    vectors = rng.normal(size=(data.pages, WIDTH)).astype(np.float32)
    windows = make_windows(data, model.config, 3)
    first = np.array([0])

    def hidden(vectors_PU: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        changed = dataclasses.replace(data, user_vectors=vectors_PU)
        batch = pack_windows(changed, windows, first, catalogue, model.config)
        return model.hidden(batch)[0][0], batch.segment_BT[0]

    before, segment = hidden(vectors)
    other = vectors.copy()
    other[1] += 1
    after, _ = hidden(other)
    torch.testing.assert_close(before[segment != 2], after[segment != 2])
    assert not torch.isclose(before[segment == 2], after[segment == 2]).all(dim=1).any()


def test_decoding_reads_it_as_training_does() -> None:
    rng = np.random.default_rng(4)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, user_prefix=WIDTH)
    requests = make_requests(rng, catalogue, [0, 3, 9])
    vectors = LengthEncoder().user_vectors(requests, catalogue)
    prompts = pack_prompts(requests, catalogue, model.config, vectors)
    found = beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), beams=len(catalogue.sids_SL))
    expected = exhaustive_scores(model, prompts, torch.from_numpy(catalogue.sids_SL).long()).sort(descending=True)
    torch.testing.assert_close(found.scores_BK, expected.values)
    unknown = pack_prompts(requests, catalogue, model.config, np.zeros_like(vectors))
    scores = exhaustive_scores(model, unknown, torch.from_numpy(catalogue.sids_SL).long()).sort(descending=True)
    assert not torch.isclose(scores.values, expected.values).all(dim=1).any()


def test_the_retriever_asks_the_two_tower_model() -> None:
    rng = np.random.default_rng(5)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, user_prefix=WIDTH)
    retriever = GenRecRetriever(model, catalogue, DecodeConfig(beams=64, batch_size=2), LengthEncoder())
    requests = make_requests(rng, catalogue, [3, 0, 5])
    found = retriever.retrieve(requests, 5)
    vectors = LengthEncoder().user_vectors(requests, catalogue)
    prompts = pack_prompts(requests, catalogue, model.config, vectors)
    beams = beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), 64)
    np.testing.assert_allclose(found.scores_BK[:, 0], beams.scores_BK[:, 0], rtol=1e-5)
    assert 0 <= retriever.hallucination_rate(requests) <= 1
    with pytest.raises(
        ValueError, match="user vectors of width 5; expected the two-tower model that made them, got none"
    ):
        GenRecRetriever(model, catalogue, DecodeConfig())


def test_missing_and_misshapen_vectors_are_refused() -> None:
    catalogue = make_catalogue(np.random.default_rng(0))
    requests = make_requests(np.random.default_rng(0), catalogue, [1, 2])
    config = GenRecConfig(user_prefix=WIDTH)
    with pytest.raises(ValueError, match=r"user_prefix: expected user vectors of shape \[2, 5\], got none"):
        pack_prompts(requests, catalogue, config)
    with pytest.raises(ValueError, match=r"expected user vectors of shape \[2, 5\], got \[2, 4\]"):
        pack_prompts(requests, catalogue, config, np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="user_prefix: expected at least 0, got -1"):
        GenRecConfig(user_prefix=-1)
