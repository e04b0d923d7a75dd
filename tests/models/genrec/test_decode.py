"""Beam search against exhaustive scoring, a slow beam search and Hugging Face's `generate`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests

from kernels.allowed_ids import AllowedIds
from kernels.trie import Trie
from models.genrec.batch import pack_prompts
from models.genrec.decode import beam_search, exhaustive_scores, hallucination_share, unconstrained_search
from models.genrec.decoding import Decoding
from models.genrec.model import GenRec


def slow_beam_search(
    model: GenRec, prompts: object, sids: list[tuple[int, ...]], beams: int, row: int, allowed: set[tuple[int, ...]]
) -> list[tuple[tuple[int, ...], float]]:
    """One request, one prefix at a time; every prefix is scored by a whole forward through the cache."""
    found: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for level in range(model.vocabulary.levels):
        grown = []
        for prefix, score in found:
            filler = prefix + (0,) * (model.vocabulary.levels - len(prefix))
            for code in sorted({sid[level] for sid in allowed if sid[:level] == prefix}):
                full = torch.tensor([(*prefix, code, *filler[level + 1 :])])
                step = exhaustive_prefix(model, prompts, full, level, row)
                grown.append(((*prefix, code), score + step))
        found = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return found


def exhaustive_prefix(model: GenRec, prompts: object, sid_1L: torch.Tensor, level: int, row: int) -> float:
    with torch.no_grad():
        state = Decoding.start(model, prompts)  # type: ignore[arg-type]
        batch = len(state.lengths_B)
        for earlier in range(level):
            codes = sid_1L[:, earlier].expand(batch, 1)
            state = state.extend(codes, torch.zeros_like(codes), earlier)
        return float(state.logprobs(level)[row, 0, sid_1L[0, level]])


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


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_equals_slow_beam_search_with_exclusions(beams: int) -> None:
    rng = np.random.default_rng(beams)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    prompts = pack_prompts(make_requests(rng, catalogue, [2, 4]), catalogue, model.config)
    allowed_BS = torch.from_numpy(rng.random((2, len(catalogue.sids_SL))) < 0.5)
    found = beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), beams, AllowedIds.from_bitmap(allowed_BS))
    sids = [tuple(map(int, sid)) for sid in catalogue.sids_SL]
    for row in range(2):
        allowed = {sid for sid, keep in zip(sids, allowed_BS[row], strict=True) if keep}
        expected = slow_beam_search(model, prompts, sids, beams, row, allowed)
        got = [sids[s] for s in found.sids_BK[row].tolist() if s >= 0]
        assert got == [sid for sid, _ in expected]
        np.testing.assert_allclose(
            [s for s in found.scores_BK[row].tolist() if s > -math.inf], [s for _, s in expected], rtol=1e-4
        )


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


def test_prompt_hidden_states_equal_training_places() -> None:
    """The cached step-by-step path gives the log-probabilities the packed forward gives."""
    rng = np.random.default_rng(1)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    requests = make_requests(rng, catalogue, [4])
    prompts = pack_prompts(requests, catalogue, model.config)
    sids = torch.from_numpy(catalogue.sids_SL).long()
    item = int(rng.integers(len(sids)))
    expected = float(exhaustive_scores(model, prompts, sids)[0, item])

    tokens = torch.from_numpy(catalogue.vocabulary.tokens(catalogue.sids_SL[item : item + 1]))[0]
    place = int(prompts.page_places_P[0])
    import dataclasses

    width = prompts.tokens_BT.shape[1]
    longer = dataclasses.replace(
        prompts,
        tokens_BT=torch.cat([prompts.tokens_BT, tokens[None, :-1]], dim=1),
        positions_BT=torch.cat([prompts.positions_BT, torch.tensor([[place + 1, place + 2]])], dim=1),
        visible_BT=torch.cat([prompts.visible_BT, prompts.visible_BT[:, -1:].expand(1, 2)], dim=1),
        segment_BT=torch.cat([prompts.segment_BT, torch.ones(1, 2, dtype=torch.int64)], dim=1),
    )
    hidden, _ = model.hidden(longer)
    total = sum(
        model.level_logits(hidden[0, width - 1 + level], level).log_softmax(-1)[sids[item, level]].item()
        for level in range(3)
    )
    assert total == pytest.approx(expected, rel=1e-5)


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


def test_refuses_training_mode() -> None:
    catalogue = make_catalogue(np.random.default_rng(0))
    model = make_model(catalogue).train()
    prompts = pack_prompts(make_requests(np.random.default_rng(0), catalogue, [1]), catalogue, model.config)
    with pytest.raises(ValueError, match="training=True"):
        beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), 3)
