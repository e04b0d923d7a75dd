"""The trie step: one kernel scores the valid children of all beams, then one top-k picks the best.

A child is written as one 64-bit key: its score's bits, in an order that integers keep, above its place among the
request's children, counted down. The keys differ from each other and their order is the order of the result (score,
then beam, then code), so that equal scores need neither a stable sort nor a look from the host, and the best keys tell
scores, beams and children by themselves: no block of nodes, codes or masks is ever in memory. The choice is left to
`torch.topk`, whose radix selection reads the keys a few times at memory speed; a selection in the kernel would have to
hold all children of a request in one program.

Legend: `B` requests, `K` beams in, `M` beams out, `C` codes of the level, `J` children of a node, `V` children of all
beams of a request.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.allowed_ids import AllowedIds
from kernels.trie import NO_NODE, Trie

_BLOCK = 256
"""Largest number of children that a program scores at once."""
_NOTHING = -(1 << 63)
"""Key of a place without a child, below the keys of all scores."""
_LOW_BITS = 0xFFFFFFFF


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
    """Return what `kernels.trie_topk.trie_topk` does, for float32 scores and log-probabilities.

    Raises:
        ValueError: Scores or log-probabilities are not float32.
    """
    if scores_BK.dtype != torch.float32 or logprobs_BKC.dtype != torch.float32:
        raise ValueError(
            f"trie_topk on a GPU: expected float32 scores and log-probabilities, got {scores_BK.dtype} and "
            f"{logprobs_BKC.dtype}; convert them with .float()"
        )
    edges = trie.levels[level]
    batch, beams = nodes_BK.shape
    keys_BV = torch.full((batch, max(k, beams * edges.branching)), _NOTHING, device=nodes_BK.device)
    nodes_BK, logprobs_BKC = nodes_BK.contiguous(), logprobs_BKC.contiguous()
    gone = 0 if allowed is None else allowed.gone_BX.shape[1]
    _score_children[(batch * beams,)](
        edges.child_offsets,
        edges.codes,
        edges.leaf_bounds,
        nodes_BK,
        scores_BK.contiguous(),
        logprobs_BKC,
        nodes_BK if allowed is None else allowed.counts_FS,
        nodes_BK if allowed is None else allowed.filter_B,
        nodes_BK if allowed is None else allowed.gone_BX,
        keys_BV,
        beams,
        edges.branching,
        keys_BV.shape[1],
        logprobs_BKC.shape[2],
        trie.leaves,
        gone,
        gone.bit_length(),
        FILTERED=allowed is not None,
        RENORMALIZE=renormalize,
        BLOCK=min(_BLOCK, triton.next_power_of_2(edges.branching)),
    )
    return _read(keys_BV.topk(k, dim=1).values, edges.child_offsets, edges.branching, nodes_BK)


def _read(keys_BM: Tensor, child_offsets: Tensor, branching: int, nodes_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores, children and beams that keys stand for."""
    bits_BM = (keys_BM >> 32).to(torch.int32)
    scores_BM = torch.where(bits_BM < 0, bits_BM ^ 0x7FFFFFFF, bits_BM).view(torch.float32)
    alive_BM = (keys_BM > _NOTHING) & (scores_BM > -math.inf)
    place_BM = torch.where(alive_BM, _LOW_BITS - (keys_BM & _LOW_BITS), 0)
    parents_BM = place_BM // branching
    first_BM = child_offsets[nodes_BK.gather(1, parents_BM).clamp_min(0)]
    children_BM = torch.where(alive_BM, first_BM + place_BM % branching, NO_NODE)
    return scores_BM.masked_fill(~alive_BM, -math.inf), children_BM, parents_BM


@triton.jit
def _score_children(
    child_offsets,
    codes,
    leaf_bounds,
    nodes,
    scores,
    logprobs,
    counts,
    filters,
    gone,
    keys,
    beams,
    branching,
    width,
    level_codes,
    sids,
    gone_width,
    gone_steps,
    FILTERED: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the keys of one beam's valid children."""
    row = tl.program_id(0).to(tl.int64)
    request, beam = row // beams, row % beams
    node = tl.load(nodes + row)
    first = tl.load(child_offsets + tl.maximum(node, 0))
    count = tl.load(child_offsets + tl.maximum(node, 0) + 1) - first
    count = tl.where(node < 0, 0, count)
    logprobs += row * level_codes
    if FILTERED:
        counts += tl.load(filters + request) * (sids + 1)
        gone += request * gone_width

    mass = 0.0
    if RENORMALIZE:
        best = -float("inf")
        total = 0.0
        for start in range(0, count, BLOCK):
            step_J = _steps(
                first, start, count, codes, leaf_bounds, logprobs, counts, gone, gone_width, gone_steps, FILTERED, BLOCK
            )
            higher = tl.maximum(best, tl.max(step_J, axis=0))
            # While nothing is valid the difference would be of two infinities.
            base = tl.where(higher > -float("inf"), higher, 0.0)
            total = total * tl.exp(best - base) + tl.sum(tl.exp(step_J - base), axis=0)
            best = higher
        mass = tl.where(total > 0.0, best + tl.log(tl.maximum(total, 1.0)), 0.0)

    score = tl.load(scores + row)
    for start in range(0, count, BLOCK):
        step_J = _steps(
            first, start, count, codes, leaf_bounds, logprobs, counts, gone, gone_width, gone_steps, FILTERED, BLOCK
        )
        total_J = score + (step_J - mass)
        # Minus zero equals zero, but its bits do not.
        total_J = tl.where(total_J == 0.0, 0.0, total_J)
        bits_J = total_J.to(tl.int32, bitcast=True)
        ordered_J = tl.where(bits_J < 0, bits_J ^ 0x7FFFFFFF, bits_J).to(tl.int64)
        j_J = start + tl.arange(0, BLOCK)
        place_J = beam * branching + j_J
        tl.store(keys + request * width + place_J, (ordered_J << 32) | (0xFFFFFFFF - place_J), mask=j_J < count)


@triton.jit
def _steps(
    first,
    start,
    count,
    codes,
    leaf_bounds,
    logprobs,
    counts,
    gone,
    gone_width,
    gone_steps,
    FILTERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the log-probabilities of a block of one node's children, `-inf` where a child is not valid."""
    j_J = start + tl.arange(0, BLOCK)
    valid_J = j_J < count
    child_J = first + j_J
    code_J = tl.load(codes + child_J, mask=valid_J, other=0)
    step_J = tl.load(logprobs + code_J, mask=valid_J, other=-float("inf"))
    if FILTERED:
        begin_J = tl.load(leaf_bounds + child_J, mask=valid_J, other=0)
        end_J = tl.load(leaf_bounds + child_J + 1, mask=valid_J, other=0)
        left_J = tl.load(counts + end_J, mask=valid_J, other=0) - tl.load(counts + begin_J, mask=valid_J, other=0)
        left_J -= _gone_before(end_J, gone, gone_width, gone_steps) - _gone_before(
            begin_J, gone, gone_width, gone_steps
        )
        step_J = tl.where(left_J > 0, step_J, -float("inf"))
    return step_J


@triton.jit
def _gone_before(place_J, gone, gone_width, gone_steps):
    """Count the entries of a sorted row below each place, by bisection."""
    low_J = tl.zeros_like(place_J)
    high_J = low_J + gone_width
    for _ in range(0, gone_steps):
        searching_J = low_J < high_J
        middle_J = (low_J + high_J) // 2
        below_J = tl.load(gone + middle_J, mask=searching_J, other=0) < place_J
        low_J = tl.where(searching_J & below_J, middle_J + 1, low_J)
        high_J = tl.where(searching_J & ~below_J, middle_J, high_J)
    return low_J
