"""Attention of beams to their request's shared prompt and to their own few places, in one pass over both.

One program answers a block of query rows of one request and key/value head: all the heads and beams that read the same
prompt, so that a prompt's keys and values are loaded once per block of rows, not once per beam. The softmax is kept
online (Milakov & Gimelshein 2018), first over blocks of the prompt, then over the own places, which merges both parts
exactly.

Legend: `B` requests, `N` query heads, `G` key/value heads, `K` beams, `T` prompt places, `J` own places, `E` head size,
`M` query rows of a program (a head and a beam each).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST_BLOCK_BYTES = 128
"""Of a row of scores: 64 query rows and prompt places at once in 16 bits, 32 in float32, which no tensor core
multiplies exactly and which would unroll into endless code."""
_SMALLEST_BLOCK = 16
"""Side of what tensor cores multiply."""


def prefix_attention(
    q_BNKE: Tensor,
    prompt_k_BGTE: Tensor,
    prompt_v_BGTE: Tensor,
    lengths_B: Tensor,
    own_k_BGKJE: Tensor,
    own_v_BGKJE: Tensor,
) -> Tensor:
    """Return what `kernels.prefix_attention.prefix_attention` does, `[B, N, K, E]`; without a gradient.

    Sums are kept in float32, whatever the inputs' type; only the last dimension must be contiguous.
    """
    batch, heads, beams, size = q_BNKE.shape
    groups = prompt_k_BGTE.shape[1]
    rows = heads // groups * beams
    q, prompt_k, prompt_v, own_k, own_v = (
        part if part.stride(-1) == 1 else part.contiguous()
        for part in (q_BNKE, prompt_k_BGTE, prompt_v_BGTE, own_k_BGKJE, own_v_BGKJE)
    )
    out_BNKE = torch.empty((batch, heads, beams, size), dtype=q.dtype, device=q.device)
    block_e = max(_SMALLEST_BLOCK, triton.next_power_of_2(size))
    block_t = _LARGEST_BLOCK_BYTES // q.element_size()
    block_m = min(block_t, max(_SMALLEST_BLOCK, triton.next_power_of_2(rows)))
    grid = (triton.cdiv(rows, block_m), batch * groups)
    _attend[grid](
        q,
        prompt_k,
        prompt_v,
        lengths_B,
        own_k,
        own_v,
        out_BNKE,
        *q.stride()[:3],
        *prompt_k.stride()[:3],
        *prompt_v.stride()[:3],
        *own_k.stride()[:4],
        *own_v.stride()[:4],
        groups,
        rows,
        beams,
        own_k.shape[3],
        math.log2(math.e) / math.sqrt(size),
        SIZE=size,
        BLOCK_M=block_m,
        BLOCK_T=block_t,
        BLOCK_E=block_e,
        num_stages=2,
    )
    return out_BNKE


@triton.jit
def _attend(
    q,
    prompt_k,
    prompt_v,
    lengths,
    own_k,
    own_v,
    out,
    q_b,
    q_n,
    q_k,
    pk_b,
    pk_g,
    pk_t,
    pv_b,
    pv_g,
    pv_t,
    ok_b,
    ok_g,
    ok_k,
    ok_j,
    ov_b,
    ov_g,
    ov_k,
    ov_j,
    groups,
    rows,
    beams,
    own_places,
    scale,
    SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    pair = tl.program_id(1).to(tl.int64)
    request, group = pair // groups, pair % groups
    row_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    e_E = tl.arange(0, BLOCK_E)
    real_E = e_E < SIZE
    real_ME = (row_M < rows)[:, None] & real_E[None, :]
    # 64-bit from here on: an offset into all requests' keys may exceed 2**31.
    beam_M = (row_M % beams).to(tl.int64)
    head_M = group * (rows // beams) + row_M // beams
    q_ME = tl.load(
        q + request * q_b + head_M[:, None] * q_n + beam_M[:, None] * q_k + e_E[None, :], mask=real_ME, other=0.0
    )
    best_M = tl.full([BLOCK_M], -float("inf"), tl.float32)
    mass_M = tl.zeros([BLOCK_M], tl.float32)
    mixed_ME = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)

    length = tl.load(lengths + request).to(tl.int32)
    for start in range(0, length, BLOCK_T):
        t_T = start + tl.arange(0, BLOCK_T)
        real_TE = (t_T < length)[:, None] & real_E[None, :]
        k_TE = tl.load(
            prompt_k + request * pk_b + group * pk_g + t_T[:, None] * pk_t + e_E[None, :], mask=real_TE, other=0.0
        )
        v_TE = tl.load(
            prompt_v + request * pv_b + group * pv_g + t_T[:, None] * pv_t + e_E[None, :], mask=real_TE, other=0.0
        )
        # Powers of two instead of e: `scale` holds the factor.
        score_MT = tl.dot(q_ME, tl.trans(k_TE), input_precision="ieee") * scale
        score_MT = tl.where((t_T < length)[None, :], score_MT, -float("inf"))
        higher_M = tl.maximum(best_M, tl.max(score_MT, axis=1))
        weight_MT = tl.exp2(score_MT - higher_M[:, None])
        shrink_M = tl.exp2(best_M - higher_M)
        mass_M = mass_M * shrink_M + tl.sum(weight_MT, axis=1)
        mixed_ME = mixed_ME * shrink_M[:, None] + tl.dot(weight_MT.to(v_TE.dtype), v_TE, input_precision="ieee")
        best_M = higher_M

    q_float_ME = q_ME.to(tl.float32)
    for place in range(0, own_places):
        k_ME = tl.load(
            own_k + request * ok_b + group * ok_g + beam_M[:, None] * ok_k + place * ok_j + e_E[None, :],
            mask=real_ME,
            other=0.0,
        )
        v_ME = tl.load(
            own_v + request * ov_b + group * ov_g + beam_M[:, None] * ov_k + place * ov_j + e_E[None, :],
            mask=real_ME,
            other=0.0,
        )
        score_M = tl.sum(q_float_ME * k_ME.to(tl.float32), axis=1) * scale
        higher_M = tl.maximum(best_M, score_M)
        weight_M = tl.exp2(score_M - higher_M)
        shrink_M = tl.exp2(best_M - higher_M)
        mass_M = mass_M * shrink_M + weight_M
        mixed_ME = mixed_ME * shrink_M[:, None] + weight_M[:, None] * v_ME.to(tl.float32)
        best_M = higher_M

    place_ME = ((request * groups + group) * rows + row_M)[:, None] * SIZE + e_E[None, :]
    tl.store(out + place_ME, (mixed_ME / mass_M[:, None]).to(q_ME.dtype), mask=real_ME)
