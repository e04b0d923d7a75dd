"""Trie of semantic IDs as compressed sparse rows, and the beam-search step over it: best valid children of all beams.

Legend: `B` requests, `K` beams in, `M` beams out, `C` codes of the level, `S` distinct semantic IDs, `L` levels.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NO_NODE = -1
"""A beam that holds no valid prefix; its score is `-inf`."""


@dataclasses.dataclass(frozen=True)
class TrieLevel:
    """The edges from the nodes of one depth to the nodes of the next.

    ::

        node            0        1     2
        child_offsets [ 0        3     4      6 ]      node n owns children [offsets[n], offsets[n + 1])
        codes         [ 0  2  5  1     0  7     ]      the code on the edge to each child, increasing per node
        leaf_start    [ 0  4  5  8     9  ...   ]      child c covers the sorted IDs [leaf_start[c], leaf_end[c])

    Attributes:
        child_offsets: int64, number of nodes of this depth + 1.
        codes, leaf_start, leaf_end: int64, one entry per node of the next depth.
        branching: Largest number of children of one node.
    """

    child_offsets: Tensor
    codes: Tensor
    leaf_start: Tensor
    leaf_end: Tensor
    branching: int


@dataclasses.dataclass(frozen=True)
class Trie:
    """All levels; a node of the last depth is the row of its semantic ID in the sorted list."""

    levels: tuple[TrieLevel, ...]
    leaves: int

    @classmethod
    def from_sorted(cls, sids_SL: npt.NDArray[np.integer], device: torch.device | str = "cpu") -> Trie:
        """Build from distinct semantic IDs in lexicographic order, one vectorised pass per level.

        Args:
            sids_SL: Codes, shape `[S, L]`.
            device: Where the index lives.

        Raises:
            ValueError: Empty, unsorted or repeated IDs.
        """
        if sids_SL.ndim != 2 or not len(sids_SL):
            raise ValueError(f"sids: expected shape [S >= 1, L], got {sids_SL.shape}")
        leaves, depth = sids_SL.shape
        # new_prefix[l, s]: the first l + 1 codes of ID s differ from those of ID s - 1
        changes = np.ones((leaves, depth), dtype=bool)
        changes[1:] = np.logical_or.accumulate(sids_SL[1:] != sids_SL[:-1], axis=1)
        if leaves > 1:
            first = np.argmax(sids_SL[1:] != sids_SL[:-1], axis=1)
            rows = np.arange(leaves - 1)
            if not changes[1:, -1].all() or (sids_SL[1:][rows, first] < sids_SL[:-1][rows, first]).any():
                raise ValueError("sids: expected distinct rows in lexicographic order; sort them with numpy.unique")
        levels = []
        parent_starts = np.zeros(1, dtype=np.int64)
        for level in range(depth):
            starts = np.flatnonzero(changes[:, level])
            offsets = np.append(np.searchsorted(starts, parent_starts), len(starts))
            levels.append(
                TrieLevel(
                    child_offsets=torch.from_numpy(offsets).to(device),
                    codes=torch.from_numpy(sids_SL[starts, level].astype(np.int64)).to(device),
                    leaf_start=torch.from_numpy(starts).to(device),
                    leaf_end=torch.from_numpy(np.append(starts[1:], leaves)).to(device),
                    branching=int(np.diff(offsets).max()),
                )
            )
            parent_starts = starts
        return cls(levels=tuple(levels), leaves=leaves)


def count_allowed(allowed_BS: Tensor) -> Tensor:
    """Return cumulative counts `[B, S + 1]` of a bitmap over the sorted IDs; a range's count is one subtraction."""
    return torch.nn.functional.pad(allowed_BS.to(torch.int32).cumsum(dim=1, dtype=torch.int32), (1, 0))


def trie_topk(
    trie: Trie,
    level: int,
    nodes_BK: Tensor,
    scores_BK: Tensor,
    logprobs_BKC: Tensor,
    k: int,
    allowed_counts: Tensor | None = None,
    renormalize: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Extend every beam by its valid children and keep the `k` best: one step of trie-constrained beam search.

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
        allowed_counts: Result of `count_allowed`, or None when every ID is allowed.
        renormalize: Renormalise over the valid children.

    Returns:
        `(scores_BM, nodes_BM, parents_BM)`, best first, `M = k`; `-inf`, `NO_NODE` and parent 0 where fewer exist.
    """
    edges = trie.levels[level]
    batch = nodes_BK.shape[0]
    present_BK = nodes_BK >= 0
    safe_BK = nodes_BK.clamp_min(0)
    first_BK = edges.child_offsets[safe_BK]
    count_BK = (edges.child_offsets[safe_BK + 1] - first_BK) * present_BK
    place_J = torch.arange(edges.branching, device=nodes_BK.device)
    valid_BKJ = place_J < count_BK[..., None]
    child_BKJ = torch.where(valid_BKJ, first_BK[..., None] + place_J, 0)
    if allowed_counts is not None:
        flat = child_BKJ.view(batch, -1)
        below = allowed_counts.gather(1, edges.leaf_end[flat]) - allowed_counts.gather(1, edges.leaf_start[flat])
        valid_BKJ = valid_BKJ & (below > 0).view_as(valid_BKJ)
    step_BKJ = logprobs_BKC.gather(2, edges.codes[child_BKJ]).masked_fill(~valid_BKJ, -math.inf)
    if renormalize:
        mass_BK1 = step_BKJ.logsumexp(dim=-1, keepdim=True)
        step_BKJ = step_BKJ - torch.where(mass_BK1.isfinite(), mass_BK1, 0.0)
    total = (scores_BK[..., None] + step_BKJ).masked_fill(~valid_BKJ, -math.inf).view(batch, -1)
    kept = min(k, total.shape[1])
    scores_BM, place_BM = total.topk(kept, dim=1)
    alive_BM = scores_BM > -math.inf
    nodes_BM = torch.where(alive_BM, child_BKJ.view(batch, -1).gather(1, place_BM), NO_NODE)
    parents_BM = torch.where(alive_BM, place_BM // edges.branching, 0)
    if kept < k:
        scores_BM = torch.nn.functional.pad(scores_BM, (0, k - kept), value=-math.inf)
        nodes_BM = torch.nn.functional.pad(nodes_BM, (0, k - kept), value=NO_NODE)
        parents_BM = torch.nn.functional.pad(parents_BM, (0, k - kept), value=0)
    return scores_BM, nodes_BM, parents_BM
