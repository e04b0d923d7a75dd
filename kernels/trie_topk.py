"""One step of trie-constrained beam search: the best valid children of all beams.

Order of the result, whatever the implementation: higher score first, of equal scores the earlier beam, of equal beams
the smaller code.

Legend: `B` requests, `K` beams in, `M` beams out, `C` codes of the level, `J` children of a node, `V` places of a
request's candidates, beam after beam.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.allowed_ids import AllowedIds
from kernels.trie import NO_NODE, Trie, TrieLevel
from kernels.triton import runs_on_gpu

_JAGGED_PLACE = 3
"""How many padded places cost as much as one that a beam's children are laid out to without padding."""
_LOOKED_UP = 4
"""Times `k` candidates, the best, are held against a filter before all are."""


def trie_topk(
    trie: Trie,
    level: int,
    nodes_BK: Tensor,
    scores_BK: Tensor,
    logprobs_BKC: Tensor,
    k: int,
    allowed: AllowedIds | None = None,
    renormalize: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Extend every beam by its valid children and keep the `k` best.

    A child is valid when it exists and, where a filter is given, an allowed semantic ID lies below it. Scores add the
    model's log-probability; invalid children are masked after the softmax (STATIC, arXiv 2602.22647; Hugging Face
    `prefix_allowed_tokens_fn`) unless `renormalize`, which divides by the valid children's mass.

    Args:
        trie: The index.
        level: Depth of `nodes_BK`; its children carry codes of this level.
        nodes_BK: Nodes, int64, `NO_NODE` for an empty beam.
        scores_BK: Sum of log-probabilities so far, float.
        logprobs_BKC: Log-softmax over the codes of this level.
        k: Beams to keep.
        allowed: What each request may get, None when every ID is allowed.
        renormalize: Renormalise over the valid children.

    Returns:
        `(scores_BM, nodes_BM, parents_BM)`, best first, `M = k`; `-inf`, `NO_NODE` and parent 0 where fewer exist.
    """
    if runs_on_gpu(logprobs_BKC):
        from kernels.triton.trie_topk import trie_topk as on_gpu

        return on_gpu(trie, level, nodes_BK, scores_BK, logprobs_BKC, k, allowed, renormalize)
    edges = trie.levels[level]
    scores_BK = scores_BK.masked_fill(nodes_BK == NO_NODE, -math.inf)
    if renormalize:
        logprobs_BKC = logprobs_BKC - _valid_mass(edges, nodes_BK, logprobs_BKC, allowed)[..., None]
    found = _expand(edges, nodes_BK, scores_BK, logprobs_BKC)
    if allowed is None:
        scores_BM, place_BM = _stable_topk(found.total_BV, k)
    else:
        scores_BM, place_BM = _allowed_topk(found, edges, allowed, k)
    alive_BM = scores_BM > -math.inf
    place_BM = place_BM * alive_BM
    parents_BM = torch.searchsorted(found.ends_BK, place_BM, right=True)
    return (
        scores_BM,
        torch.where(alive_BM, found.child_BV.gather(1, place_BM).long(), NO_NODE),
        torch.where(alive_BM, parents_BM, 0),
    )


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """The children of a request's beams, in order of beam and code.

    Attributes:
        total_BV: Score, `-inf` where there is no child.
        child_BV: Node, any where there is none.
        ends_BK: Where each beam's places end.
    """

    total_BV: Tensor
    child_BV: Tensor
    ends_BK: Tensor

    def masked(self, edges: TrieLevel, allowed: AllowedIds) -> Tensor:
        """Return the scores, `-inf` where nothing below is allowed."""
        return self.total_BV.masked_fill(~_holds_allowed(edges, allowed, self.child_BV), -math.inf)


def _expand(edges: TrieLevel, nodes_BK: Tensor, scores_BK: Tensor, logprobs_BKC: Tensor) -> _Candidates:
    """Lay the children out over all codes, padded to the most children of a node, or one after the other.

    Beams of deep levels have few children each, and one among thousands may have many.
    """
    safe_BK = nodes_BK.clamp_min(0)
    if edges.table is not None:
        return _over_codes(edges.table[safe_BK], scores_BK, logprobs_BKC)
    first_BK = edges.child_offsets[safe_BK].long()
    count_BK = (edges.child_offsets[safe_BK + 1] - first_BK) * (nodes_BK != NO_NODE)
    longest = max(1, int(count_BK.sum(dim=1).max()))
    if _JAGGED_PLACE * longest < count_BK.shape[1] * edges.branching:
        return _jagged(edges, first_BK, count_BK, scores_BK, logprobs_BKC, longest)
    place_J = torch.arange(edges.branching, device=nodes_BK.device)
    child_BKJ = (first_BK[..., None] + place_J).clamp_max(len(edges.codes) - 1)
    step_BKJ = logprobs_BKC.gather(2, edges.codes[child_BKJ].long())
    total_BKJ = (scores_BK[..., None] + step_BKJ).masked_fill(place_J >= count_BK[..., None], -math.inf)
    return _Candidates(total_BKJ.flatten(1), child_BKJ.flatten(1), _equal_ends(total_BKJ))


def _over_codes(child_BKC: Tensor, scores_BK: Tensor, logprobs_BKC: Tensor) -> _Candidates:
    total_BKC = scores_BK[..., None] + logprobs_BKC[..., : child_BKC.shape[-1]]
    total_BKC = total_BKC.masked_fill_(child_BKC == NO_NODE, -math.inf)
    return _Candidates(total_BKC.flatten(1), child_BKC.flatten(1), _equal_ends(total_BKC))


def _equal_ends(total_BKJ: Tensor) -> Tensor:
    batch, beams, width = total_BKJ.shape
    return (torch.arange(1, beams + 1, device=total_BKJ.device) * width).expand(batch, -1).contiguous()


def _jagged(
    edges: TrieLevel, first_BK: Tensor, count_BK: Tensor, scores_BK: Tensor, logprobs_BKC: Tensor, width: int
) -> _Candidates:
    """Lay the children out one after the other; one more beam, without a score, fills each request up to `width`."""
    batch, beams, codes = logprobs_BKC.shape
    filler_B1 = width - count_BK.sum(dim=1, keepdim=True)
    count_BK = torch.cat([count_BK, filler_B1], dim=1)
    ends_BK = count_BK.cumsum(dim=1)
    row_B1 = torch.arange(batch, device=first_BK.device)[:, None]
    shift_BK = F.pad(first_BK, (0, 1)) - (ends_BK - count_BK) - row_B1 * width
    beam_V = torch.repeat_interleave(count_BK.flatten(), output_size=batch * width)
    child_V = torch.arange(batch * width, device=first_BK.device) + shift_BK.flatten()[beam_V]
    child_V = child_V.clamp(0, len(edges.codes) - 1)
    source_BK = F.pad(torch.arange(batch * beams, device=first_BK.device).view(batch, beams) * codes, (0, 1))
    step_V = logprobs_BKC.flatten()[source_BK.flatten()[beam_V] + edges.codes[child_V]]
    total_V = F.pad(scores_BK, (0, 1), value=-math.inf).flatten()[beam_V] + step_V
    return _Candidates(total_V.view(batch, width), child_V.view(batch, width), ends_BK)


def _holds_allowed(edges: TrieLevel, allowed: AllowedIds, child_BV: Tensor) -> Tensor:
    """Whether an allowed ID lies below each node."""
    child_BV = child_BV.clamp_min(0)
    return allowed.below(edges.leaf_bounds[child_BV], edges.leaf_bounds[child_BV + 1]) > 0


def _valid_mass(edges: TrieLevel, nodes_BK: Tensor, logprobs_BKC: Tensor, allowed: AllowedIds | None) -> Tensor:
    """Return the log of the valid children's probability, 0 where there are none."""
    none_BK = torch.zeros_like(logprobs_BKC[..., 0]).masked_fill(nodes_BK == NO_NODE, -math.inf)
    found = _expand(edges, nodes_BK, none_BK, logprobs_BKC)
    step_BV = found.total_BV if allowed is None else found.masked(edges, allowed)
    place_BV = torch.arange(step_BV.shape[1], device=step_BV.device).expand(len(step_BV), -1).contiguous()
    beam_BV = torch.searchsorted(found.ends_BK, place_BV, right=True)
    most_BK = torch.full_like(found.ends_BK, -math.inf, dtype=step_BV.dtype).scatter_reduce(1, beam_BV, step_BV, "amax")
    most_BK = torch.where(most_BK.isfinite(), most_BK, 0.0)
    mass_BK = torch.zeros_like(most_BK).scatter_add(1, beam_BV, (step_BV - most_BK.gather(1, beam_BV)).exp())
    mass_BK = torch.where(mass_BK > 0, mass_BK.log() + most_BK, 0.0)
    return mass_BK[:, : nodes_BK.shape[1]]


def _allowed_topk(found: _Candidates, edges: TrieLevel, allowed: AllowedIds, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` best allowed candidates; most often they are among the best few, and only these are looked up."""
    few = _LOOKED_UP * k
    if few < found.total_BV.shape[1]:
        best_BM, place_BM = found.total_BV.topk(few, dim=1)
        place_BM, order_BM = place_BM.sort(dim=1)
        allowed_BM = _holds_allowed(edges, allowed, found.child_BV.gather(1, place_BM))
        scores_BM, chosen_BM = _stable_topk(best_BM.gather(1, order_BM).masked_fill(~allowed_BM, -math.inf), k)
        last_B = best_BM[:, -1]
        # None of the others is as good: they are not better than the last one looked up.
        if bool(((scores_BM[:, -1] > last_B) | (last_B == -math.inf)).all()):
            return scores_BM, place_BM.gather(1, chosen_BM)
    return _stable_topk(found.masked(edges, allowed), k)


def _stable_topk(total_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` best and their places, earlier places first among equals; `-inf` where there are fewer."""
    missing = k + 1 - total_BV.shape[1]
    if missing > 0:
        total_BV = F.pad(total_BV, (0, missing), value=-math.inf)
    best_BM, place_BM = total_BV.topk(k + 1, dim=1)
    if bool(((best_BM[:, -1] == best_BM[:, -2]) & (best_BM[:, -1] > -math.inf)).any()):
        # Equal scores on both sides of the cut: topk's choice among them would be arbitrary.
        best_BM, place_BM = total_BV.sort(dim=1, descending=True, stable=True)
        return best_BM[:, :k], place_BM[:, :k]
    place_BM = place_BM[:, :k].sort(dim=1).values
    best_BM, order_BM = total_BV.gather(1, place_BM).sort(dim=1, descending=True, stable=True)
    return best_BM, place_BM.gather(1, order_BM)


def reference_trie_topk(
    trie: Trie,
    level: int,
    nodes_BK: Tensor,
    scores_BK: Tensor,
    logprobs_BKC: Tensor,
    k: int,
    allowed: AllowedIds | None = None,
    renormalize: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same as `trie_topk`, beam by beam and child by child in plain Python."""
    scores_BM = torch.full((len(nodes_BK), k), -math.inf, dtype=scores_BK.dtype)
    nodes_BM, parents_BM = torch.full((len(nodes_BK), k), NO_NODE), torch.zeros(len(nodes_BK), k, dtype=torch.int64)
    for request, nodes in enumerate(nodes_BK.tolist()):
        found = []
        for beam, node in enumerate(nodes):
            children = [] if node == NO_NODE else _valid_children(trie, level, node, allowed, request)
            codes = [int(trie.levels[level].codes[child]) for child in children]
            step = logprobs_BKC[request, beam, codes]
            if renormalize and children:
                step = step - step.logsumexp(dim=0)
            total = (scores_BK[request, beam] + step).tolist()
            found += [(-score, beam, child) for score, child in zip(total, children, strict=True) if score > -math.inf]
        for place, (score, beam, child) in enumerate(sorted(found)[:k]):
            scores_BM[request, place], nodes_BM[request, place], parents_BM[request, place] = -score, child, beam
    return scores_BM, nodes_BM, parents_BM


def _valid_children(trie: Trie, level: int, node: int, allowed: AllowedIds | None, request: int) -> list[int]:
    edges = trie.levels[level]
    children = range(int(edges.child_offsets[node]), int(edges.child_offsets[node + 1]))
    if allowed is None:
        return list(children)
    bounds = edges.leaf_bounds.expand(len(allowed.filter_B), -1)
    below = allowed.below(bounds[:, :-1], bounds[:, 1:])[request]
    return [child for child in children if below[child] > 0]
