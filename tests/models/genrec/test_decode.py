"""Beam search against exhaustive scoring and a slow beam search (against Hugging Face's `generate`: `test_hf`)."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests

from kernels.allowed_ids import AllowedIds
from kernels.trie import Trie
from models.genrec.batch import PackedBatch, pack_prompts
from models.genrec.decode import beam_search, exhaustive_scores, hallucination_share, unconstrained_search
from models.genrec.model import GenRec

Prefix = tuple[int, ...]


def naive_logprobs(model: GenRec, prompt: PackedBatch, prefix: Prefix) -> list[float]:
    """Score the next codes of one request by a whole forward over its prompt and the codes before, without a cache."""
    length, width = len(prefix), prompt.tokens_BT.shape[1]
    tokens = torch.tensor([[model.vocabulary.offsets[level] + code for level, code in enumerate(prefix)]])
    longer = dataclasses.replace(
        prompt,
        tokens_BT=torch.cat([prompt.tokens_BT, tokens.long()], dim=1),
        positions_BT=torch.cat([prompt.positions_BT, torch.arange(width, width + length)[None]], dim=1),
        visible_BT=torch.cat([prompt.visible_BT, prompt.visible_BT[:, -1:].expand(1, length)], dim=1),
        segment_BT=torch.cat([prompt.segment_BT, torch.ones(1, length, dtype=torch.int64)], dim=1),
    )
    with torch.no_grad():
        hidden, _ = model.hidden(longer)
        logprobs: list[float] = model.level_logits(hidden[0, -1], length).log_softmax(-1).tolist()
    return logprobs


def slow_beam_search(
    model: GenRec, prompt: PackedBatch, beams: int, valid: list[Prefix], renormalize: bool = False
) -> list[tuple[Prefix, float]]:
    """One request and one prefix at a time; `valid` are the IDs it may get."""
    found: list[tuple[Prefix, float]] = [((), 0.0)]
    for level in range(model.vocabulary.levels):
        grown = []
        for prefix, score in found:
            codes = sorted({sid[level] for sid in valid if sid[:level] == prefix})
            logprobs = naive_logprobs(model, prompt, prefix) if codes else []
            mass = math.log(sum(math.exp(logprobs[code]) for code in codes)) if renormalize and codes else 0.0
            grown += [((*prefix, code), score + logprobs[code] - mass) for code in codes]
        found = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return found


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_exhaustive_when_beams_cover_everything(seed: int, merge: bool) -> None:
    rng = np.random.default_rng(seed)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, merge_history=merge)
    prompts = pack_prompts(make_requests(rng, catalogue, [0, 3, 9]), catalogue, model.config)
    found = beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), beams=len(catalogue.sids_SL))
    scores_BS = exhaustive_scores(model, prompts, torch.from_numpy(catalogue.sids_SL).long())
    expected, order = scores_BS.sort(dim=1, descending=True)
    torch.testing.assert_close(found.scores_BK, expected)
    assert torch.equal(found.sids_BK, order)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("left", [1.0, 0.5])
@pytest.mark.parametrize("beams", [1, 2, 5, 30])
def test_equals_slow_beam_search(beams: int, left: float, renormalize: bool, merge: bool) -> None:
    rng = np.random.default_rng(beams)
    catalogue = make_catalogue(rng, codes=(4, 3, 5))
    model = make_model(catalogue, merge_history=merge)
    requests = make_requests(rng, catalogue, [2, 0, 4])
    allowed_BS = torch.from_numpy(rng.random((3, len(catalogue.sids_SL))) < left)
    found = beam_search(
        model,
        pack_prompts(requests, catalogue, model.config),
        Trie.from_sorted(catalogue.sids_SL),
        beams,
        None if left == 1.0 else AllowedIds.from_bitmap(allowed_BS),
        renormalize,
    )
    sids = [tuple(sid) for sid in catalogue.sids_SL.tolist()]
    for row in range(3):
        prompt = pack_prompts(requests.take(np.array([row])), catalogue, model.config)
        valid = [sid for sid, keep in zip(sids, allowed_BS[row].tolist(), strict=True) if keep]
        expected = slow_beam_search(model, prompt, beams, valid, renormalize)
        assert [sids[s] for s in found.sids_BK[row].tolist() if s >= 0] == [sid for sid, _ in expected]
        np.testing.assert_allclose(
            [s for s in found.scores_BK[row].tolist() if s > -math.inf], [s for _, s in expected], rtol=1e-4
        )


@pytest.mark.parametrize("beams", [1, 3, 20])
def test_unconstrained_equals_slow_beam_search(beams: int) -> None:
    rng = np.random.default_rng(beams)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    requests = make_requests(rng, catalogue, [3, 1])
    codes, scores = unconstrained_search(model, pack_prompts(requests, catalogue, model.config), beams)
    for row in range(2):
        prompt = pack_prompts(requests.take(np.array([row])), catalogue, model.config)
        expected = slow_beam_search(model, prompt, beams, list(itertools.product(range(4), repeat=3)))
        assert [tuple(sid) for sid in codes[row].tolist()] == [sid for sid, _ in expected]
        np.testing.assert_allclose(scores[row].tolist(), [score for _, score in expected], rtol=1e-4)


def test_nothing_allowed_gives_no_id() -> None:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    prompts = pack_prompts(make_requests(rng, catalogue, [2]), catalogue, model.config)
    nothing = AllowedIds.from_bitmap(torch.zeros(1, len(catalogue.sids_SL), dtype=torch.bool))
    for renormalize in (False, True):
        found = beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), 4, nothing, renormalize)
        assert found.sids_BK.tolist() == [[-1] * 4]
        assert found.scores_BK.tolist() == [[-math.inf] * 4]


def test_unconstrained_search_and_hallucination_share() -> None:
    rng = np.random.default_rng(2)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    prompts = pack_prompts(make_requests(rng, catalogue, [2, 5]), catalogue, model.config)
    codes, scores = unconstrained_search(model, prompts, beams=64)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    expected = exhaustive_scores(model, prompts, every).sort(dim=1, descending=True)
    torch.testing.assert_close(scores, expected.values)
    assert torch.equal(codes, every[expected.indices])
    share = hallucination_share(codes, torch.from_numpy(catalogue.sids_SL), (4, 4, 4))
    assert share == pytest.approx(1 - len(catalogue.sids_SL) / 64)


def test_what_is_found_may_be_trained_on() -> None:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    found = beam_search(
        model,
        pack_prompts(make_requests(rng, catalogue, [2]), catalogue, model.config),
        Trie.from_sorted(catalogue.sids_SL),
        beams=3,
    )
    weight = torch.ones(len(catalogue.sids_SL), requires_grad=True)
    (weight[found.sids_BK] * found.scores_BK).sum().backward()
    assert weight.grad is not None
    assert weight.grad[found.sids_BK[0, 0]] == found.scores_BK[0, 0]


def test_refuses_training_mode() -> None:
    catalogue = make_catalogue(np.random.default_rng(0))
    model = make_model(catalogue).train()
    prompts = pack_prompts(make_requests(np.random.default_rng(0), catalogue, [1]), catalogue, model.config)
    with pytest.raises(ValueError, match="training=True"):
        beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), 3)
