"""One step of trie-constrained beam search: the best valid children of all beams.

Order of the result, whatever the implementation: higher score first, of equal scores the earlier beam, of equal beams
the smaller code.

Legend: `B` requests, `K` beams in, `M` beams out, `C` codes of the level, `J` children of a node.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.allowed_ids import AllowedIds
from kernels.trie import NO_NODE, Trie
from kernels.triton import runs_on_gpu


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
    batch = nodes_BK.shape[0]
    safe_BK = nodes_BK.clamp_min(0)
    first_BK = edges.child_offsets[safe_BK].long()
    count_BK = (edges.child_offsets[safe_BK + 1] - first_BK) * (nodes_BK >= 0)
    place_J = torch.arange(edges.branching, device=nodes_BK.device)
    valid_BKJ = place_J < count_BK[..., None]
    child_BKJ = torch.where(valid_BKJ, first_BK[..., None] + place_J, 0)
    if allowed is not None:
        flat = child_BKJ.view(batch, -1)
        below = allowed.below(edges.leaf_bounds[flat], edges.leaf_bounds[flat + 1])
        valid_BKJ = valid_BKJ & (below > 0).view_as(valid_BKJ)
    step_BKJ = logprobs_BKC.gather(2, edges.codes[child_BKJ].long()).masked_fill(~valid_BKJ, -math.inf)
    if renormalize:
        mass_BK1 = step_BKJ.logsumexp(dim=-1, keepdim=True)
        step_BKJ = step_BKJ - torch.where(mass_BK1.isfinite(), mass_BK1, 0.0)
    total = (scores_BK[..., None] + step_BKJ).masked_fill(~valid_BKJ, -math.inf).view(batch, -1)
    scores_BM, place_BM = _stable_topk(total, k)
    alive_BM = scores_BM > -math.inf
    place_BM = place_BM * alive_BM
    nodes_BM = torch.where(alive_BM, child_BKJ.view(batch, -1).gather(1, place_BM), NO_NODE)
    parents_BM = torch.where(alive_BM, place_BM // edges.branching, 0)
    return scores_BM, nodes_BM, parents_BM


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
