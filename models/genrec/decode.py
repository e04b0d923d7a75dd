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
from models.genrec.layers import KeyValue
from models.genrec.model import GenRec


@dataclasses.dataclass(frozen=True)
class Beams:
    """What a beam search found, best first.

    Attributes:
        sids_BK: Rows of the sorted semantic IDs, -1 where fewer than `K` exist.
        scores_BK: Sum over levels of log-probabilities, `-inf` where there is none.
    """

    sids_BK: Tensor
    scores_BK: Tensor


@torch.no_grad()
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
    state = _Decoding.start(model, prompts)
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
    return Beams(sids_BK=nodes_BK, scores_BK=scores_BK)


@torch.no_grad()
def unconstrained_search(model: GenRec, prompts: PackedBatch, beams: int) -> tuple[Tensor, Tensor]:
    """Beam search over all code combinations, valid or not: what the hallucination rate is measured on.

    Returns:
        Codes `[B, K, L]` and scores `[B, K]`, best first.
    """
    state = _Decoding.start(model, prompts)
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
        state = _Decoding.start(model, prompts)
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


@dataclasses.dataclass(frozen=True)
class _Decoding:
    """The model's state between two levels: last hidden states of the beams and their caches."""

    model: GenRec
    hidden_BKD: Tensor
    prompt: list[KeyValue]
    prompt_mask: Tensor
    next_position_B: Tensor
    own: list[KeyValue] | None

    @classmethod
    def start(cls, model: GenRec, prompts: PackedBatch) -> _Decoding:
        hidden_BTD, caches = model.hidden(prompts)
        places = prompts.page_places_P
        last_BD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]).index_select(0, places)
        positions = prompts.positions_BT
        return cls(
            model=model,
            hidden_BKD=last_BD[:, None],
            prompt=caches,
            prompt_mask=(positions >= 0)[:, None, None],
            next_position_B=positions.reshape(-1).index_select(0, places) + 1,
            own=None,
        )

    def logprobs(self, level: int) -> Tensor:
        """Return the log-softmax over the level's codes, `[B, K, C]`, in float32."""
        return self.model.level_logits(self.hidden_BKD, level).float().log_softmax(dim=-1)

    def extend(self, codes_BK: Tensor, parents_BK: Tensor, level: int) -> _Decoding:
        """Feed one code to every beam, after re-ordering the beams' caches to their parents."""
        x_BKD = self.model.code_vectors(codes_BK, level)
        rotated = self.model.rotation(self.next_position_B[:, None].expand(codes_BK.shape))
        grown = []
        decoder = self.model.model
        for number, block in enumerate(decoder.blocks()):
            own = None if self.own is None else _reorder(self.own[number], parents_BK)
            x_BKD, cache = block.extend(x_BKD, rotated, self.prompt[number], self.prompt_mask, own)
            grown.append(cache)
        hidden_BKD: Tensor = decoder.norm(x_BKD)
        return dataclasses.replace(self, hidden_BKD=hidden_BKD, own=grown, next_position_B=self.next_position_B + 1)


def _reorder(cache: KeyValue, parents_BK: Tensor) -> KeyValue:
    """Pick each beam's parent from caches `[B, G, K, J, E]`."""
    batch, groups, _, places, size = cache[0].shape
    index = parents_BK[:, None, :, None, None].expand(batch, groups, parents_BK.shape[1], places, size)
    return cache[0].gather(2, index), cache[1].gather(2, index)


def hallucination_share(codes_BKL: Tensor, sids_SL: Tensor, codes_per_level: tuple[int, ...]) -> float:
    """Return the share of generated codes `[B, K, L]` that are no semantic ID of the catalogue."""
    if math.prod(codes_per_level) >= 2**63:
        raise ValueError(f"codes_per_level: expected a product below 2**63, got {codes_per_level}")
    radix = torch.tensor([math.prod(codes_per_level[level + 1 :]) for level in range(len(codes_per_level))])
    known = (sids_SL.cpu().long() * radix).sum(dim=-1)
    generated = (codes_BKL.cpu() * radix).sum(dim=-1)
    return 1.0 - float(torch.isin(generated, known).float().mean())
