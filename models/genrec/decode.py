"""Beam search over semantic IDs: the prompt is encoded once per request and shared by all of its beams.

Legend: `B` requests, `K` beams, `L` levels, `S` distinct semantic IDs, `D` width.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from kernels.allowed_ids import AllowedIds
from kernels.trie import Trie
from kernels.trie_topk import trie_topk
from models.genrec.batch import PackedBatch
from models.genrec.decoding import Decoding
from models.genrec.model import GenRec


@dataclasses.dataclass(frozen=True)
class Beams:
    """What a beam search found, best first.

    Attributes:
        sids_BK: Rows of the sorted semantic IDs, -1 where fewer than `K` exist.
        scores_BK: Sum over levels of log-probabilities, `-inf` where there is none.
        page_hidden_BD: The hidden states that predict the first code, for an item head.
    """

    sids_BK: Tensor
    scores_BK: Tensor
    page_hidden_BD: Tensor


def beam_search(
    model: GenRec,
    prompts: PackedBatch,
    trie: Trie,
    beams: int,
    allowed: AllowedIds | None = None,
    renormalize: bool = False,
) -> Beams:
    """Find the `beams` best valid semantic IDs of every request.

    The score of an ID is the sum over levels of the log-softmax over the level's codes; codes that lead to no allowed
    ID are masked after the softmax, or before it with `renormalize`. Exact when `beams` covers every prefix.

    Args:
        model: In evaluation mode (`model.eval()`).
        prompts: From `pack_prompts`.
        trie: The valid semantic IDs.
        beams: Beams kept at each level and returned.
        allowed: Which IDs each request may get; None allows all.
        renormalize: Divide by the probability of the valid codes at each step.

    Raises:
        ValueError: `beams` is not positive or the model is in training mode.
    """
    if beams < 1 or model.training:
        raise ValueError(f"beam search: expected beams >= 1 and model.eval(), got {beams}, training={model.training}")
    with torch.inference_mode():
        found = _search(model, prompts, trie, beams, allowed, renormalize)
    # Copies, made outside of the mode: what was made within it no backward pass may keep.
    return Beams(*(part.clone() for part in found))


def _search(
    model: GenRec, prompts: PackedBatch, trie: Trie, beams: int, allowed: AllowedIds | None, renormalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    state = Decoding.start(model, prompts)
    page_hidden_BD = state.hidden_BKD[:, 0]
    batch = len(prompts.page_places_P)
    nodes_BK = torch.zeros(batch, 1, dtype=torch.int64, device=prompts.tokens_BT.device)
    scores_BK = torch.zeros(batch, 1, device=prompts.tokens_BT.device)
    for level in range(model.vocabulary.levels):
        logprobs_BKC = state.logprobs(level)
        scores_BK, nodes_BK, parents_BK = trie_topk(
            trie, level, nodes_BK, scores_BK, logprobs_BKC, beams, allowed, renormalize
        )
        if level + 1 < model.vocabulary.levels:
            state = state.extend(trie.levels[level].codes[nodes_BK.clamp_min(0)].long(), parents_BK, level)
    return nodes_BK, scores_BK, page_hidden_BD


@torch.no_grad()
def unconstrained_search(model: GenRec, prompts: PackedBatch, beams: int) -> tuple[Tensor, Tensor]:
    """Beam search over all code combinations, valid or not: what the hallucination rate is measured on.

    Returns:
        Codes `[B, K, L]` and scores `[B, K]`, best first.
    """
    state = Decoding.start(model, prompts)
    batch = len(prompts.page_places_P)
    codes_BKL = torch.zeros(batch, 1, 0, dtype=torch.int64, device=prompts.tokens_BT.device)
    scores_BK = torch.zeros(batch, 1, device=prompts.tokens_BT.device)
    for level in range(model.vocabulary.levels):
        total_BKC = scores_BK[..., None] + state.logprobs(level)
        width = total_BKC.shape[-1]
        scores_BK, place_BK = total_BKC.flatten(1).topk(min(beams, total_BKC[0].numel()), dim=1)
        parents_BK, chosen_BK = place_BK // width, place_BK % width
        history = codes_BKL.gather(1, parents_BK[..., None].expand(-1, -1, codes_BKL.shape[-1]))
        codes_BKL = torch.cat([history, chosen_BK[..., None]], dim=-1)
        if level + 1 < model.vocabulary.levels:
            state = state.extend(chosen_BK, parents_BK, level)
    return codes_BKL, scores_BK


def exhaustive_scores(model: GenRec, prompts: PackedBatch, sids_SL: Tensor) -> Tensor:
    """Score every semantic ID of every request one by one through the beam cache: the slow truth, `[B, S]`."""
    with torch.no_grad():
        state = Decoding.start(model, prompts)
        batch, count = len(prompts.page_places_P), len(sids_SL)
        total_BS = torch.zeros(batch, count, device=sids_SL.device)
        for level in range(model.vocabulary.levels):
            codes_BS = sids_SL[:, level].expand(batch, count)
            logprobs = state.logprobs(level).expand(batch, count, -1)
            total_BS = total_BS + logprobs.gather(2, codes_BS[..., None])[..., 0]
            if level + 1 < model.vocabulary.levels:
                same = torch.arange(count, device=sids_SL.device).expand(batch, count)
                state = state.extend(codes_BS, same if level else torch.zeros_like(same), level)
        return total_BS


def hallucination_share(codes_BKL: Tensor, sids_SL: Tensor, codes_per_level: tuple[int, ...]) -> float:
    """Return the share of generated codes `[B, K, L]` that are no semantic ID of the catalogue."""
    if math.prod(codes_per_level) >= 2**63:
        raise ValueError(f"codes_per_level: expected a product below 2**63, got {codes_per_level}")
    radix = torch.tensor([math.prod(codes_per_level[level + 1 :]) for level in range(len(codes_per_level))])
    known = (sids_SL.cpu().long() * radix).sum(dim=-1)
    generated = (codes_BKL.cpu() * radix).sum(dim=-1)
    return 1.0 - float(torch.isin(generated, known).float().mean())
