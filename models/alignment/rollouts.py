"""Candidates of the policy for every request: the most probable valid semantic IDs, or draws from it.

Legend: `B` requests, `G` candidates of a group, `L` levels, `S` distinct semantic IDs.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kernels.trie import NO_NODE, Trie
from kernels.trie_topk import trie_topk
from models.alignment.config import AlignConfig
from models.genrec.batch import PackedBatch
from models.genrec.decode import beam_search
from models.genrec.decoding import Decoding
from models.genrec.model import GenRec


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """A group of candidates per request.

    Attributes:
        sids_BG: Rows of the sorted semantic IDs, -1 where there is no candidate.
        codes_BGL: Their codes, int64, zeros where there is no candidate.
    """

    sids_BG: Tensor
    codes_BGL: Tensor

    @property
    def valid(self) -> Tensor:
        """Where there is a candidate, bool `[B, G]`."""
        return self.sids_BG >= 0


@torch.no_grad()
def roll_out(
    model: GenRec,
    prompts: PackedBatch,
    trie: Trie,
    config: AlignConfig,
    generator: torch.Generator | None = None,
) -> Rollouts:
    """Let the policy propose `config.group` valid semantic IDs per request; its mode is left as it is.

    Args:
        model: The policy; dropout is off while it proposes.
        prompts: `B` open pages, from `pack_prompts`.
        trie: The valid semantic IDs.
        config: Size of the group, and how candidates are found.
        generator: Of the draws.

    Returns:
        The groups; a beam's are in order of probability.
    """
    training = model.training
    model.eval()
    try:
        if config.rollouts == "beam":
            sids_BG = beam_search(model, prompts, trie, config.group).sids_BK
        else:
            sids_BG = _sample(model, prompts, trie, config.group, generator)
    finally:
        model.train(training)
    return Rollouts(sids_BG=sids_BG, codes_BGL=sid_codes(trie, sids_BG))


def _sample(model: GenRec, prompts: PackedBatch, trie: Trie, group: int, generator: torch.Generator | None) -> Tensor:
    """Draw semantic IDs code by code, each code from the softmax renormalised over the valid children.

    The best child after Gumbel noise was added to every log-probability is such a draw (Gumbel-max), so each draw is a
    beam search of its own with one noisy beam.
    """
    state = Decoding.start(model, prompts)
    rows = len(prompts.page_places_P)
    nodes_Q1 = torch.zeros(rows * group, 1, dtype=torch.int64, device=prompts.tokens_BT.device)
    no_score_Q1 = torch.zeros(rows * group, 1, device=nodes_Q1.device)
    parents_BG = nodes_Q1.new_zeros(rows, group)
    for level, edges in enumerate(trie.levels):
        noisy_BGC = state.logprobs(level).expand(-1, group, -1).contiguous()
        noisy_BGC = noisy_BGC - torch.empty_like(noisy_BGC).exponential_(generator=generator).log()
        _, nodes_Q1, _ = trie_topk(trie, level, nodes_Q1, no_score_Q1, noisy_BGC.flatten(0, 1)[:, None], 1)
        if level + 1 < len(trie.levels):
            codes_BG = edges.codes[nodes_Q1.clamp_min(0)].long().view(rows, group)
            state = state.extend(codes_BG, parents_BG, level)
            parents_BG = torch.arange(group, device=nodes_Q1.device).expand(rows, -1)
    return nodes_Q1.view(rows, group)


def sid_codes(trie: Trie, sids: Tensor) -> Tensor:
    """Return the codes `[..., L]` of rows of the sorted semantic IDs; zeros for those below 0."""
    present = sids > NO_NODE
    safe = sids.clamp_min(0)
    codes = [
        level.codes[torch.searchsorted(level.leaf_bounds, safe, right=True) - 1].long().where(present, 0)
        for level in trie.levels
    ]
    return torch.stack(codes, dim=-1)
