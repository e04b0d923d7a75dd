"""Random catalogues, filters and beams for the kernels of beam search."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from kernels.allowed_ids import AllowedIds
from kernels.trie import NO_NODE, Trie


@dataclasses.dataclass(frozen=True)
class TrieCase:
    """The arguments of one `trie_topk` step."""

    trie: Trie
    level: int
    nodes_BK: Tensor
    scores_BK: Tensor
    logprobs_BKC: Tensor
    k: int
    allowed: AllowedIds | None


def random_case(seed: int, dtype: torch.dtype = torch.float64) -> TrieCase:
    """Few and many children, empty beams, filters that leave little or nothing, more beams than children, ties."""
    rng = np.random.default_rng(seed)
    levels, codes = int(rng.integers(1, 5)), int(rng.integers(1, rng.choice([4, 12, 40])))
    sids_SL = np.unique(rng.integers(0, codes, (int(rng.integers(1, 80)), levels)), axis=0)
    trie = Trie.from_sorted(sids_SL)
    level, requests = int(rng.integers(levels)), int(rng.integers(1, 4))
    nodes_in = len(trie.levels[level].child_offsets) - 1
    beams = int(rng.integers(1, nodes_in + 1))
    nodes_BK = torch.from_numpy(np.stack([rng.permutation(nodes_in)[:beams] for _ in range(requests)]))
    nodes_BK[torch.from_numpy(rng.random((requests, beams)) < rng.choice([0.0, 0.3, 1.0]))] = NO_NODE
    step = rng.choice([0.0, 0.5])  # scores on a coarse grid tie
    logprobs_BKC = torch.from_numpy(rng.normal(size=(requests, beams, codes))).log_softmax(dim=-1)
    scores_BK = torch.from_numpy(-rng.random((requests, beams)))
    if step:
        logprobs_BKC, scores_BK = (logprobs_BKC / step).round() * step, (scores_BK / step).round() * step
    return TrieCase(
        trie=trie,
        level=level,
        nodes_BK=nodes_BK,
        scores_BK=scores_BK.to(dtype),
        logprobs_BKC=logprobs_BKC.to(dtype),
        k=int(rng.integers(1, 12)),
        allowed=random_allowed(rng, requests, len(sids_SL)) if rng.random() < 0.7 else None,
    )


def random_allowed(rng: np.random.Generator, requests: int, leaves: int) -> AllowedIds:
    """A few distinct filters, and for each request a few more IDs of those its filter leaves."""
    left_FS = torch.from_numpy(rng.random((int(rng.integers(1, 4)), leaves)) < rng.choice([0.0, 0.1, 0.6, 1.0]))
    filter_B = torch.from_numpy(rng.integers(0, len(left_FS), requests))
    gone = [
        np.sort(rng.permutation(np.flatnonzero(left_FS[number]))[: int(rng.integers(0, 6))])
        for number in filter_B.tolist()
    ]
    gone_BX = torch.full((requests, max(map(len, gone))), leaves)
    for request, ids in enumerate(gone):
        gone_BX[request, : len(ids)] = torch.from_numpy(ids)
    return AllowedIds(AllowedIds.from_bitmap(left_FS).counts_FS, filter_B, gone_BX)
