"""Attention of many beams to the one prompt they share and to the few places of their own.

The prompt's keys and values are read where they lie: the beams and the query heads that share a key/value head become
rows of one matrix product per request and key/value head, `[(N/G) K, E] x [E, T]`.

Legend: `B` requests, `N` query heads, `G` key/value heads, `K` beams, `T` prompt places, `J` own places, `E` head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.triton import runs_on_gpu


def prefix_attention(
    q_BNKE: Tensor,
    prompt_k_BGTE: Tensor,
    prompt_v_BGTE: Tensor,
    lengths_B: Tensor,
    own_k_BGKJE: Tensor,
    own_v_BGKJE: Tensor,
) -> Tensor:
    """Attend from one place per beam to the first `lengths_B` prompt places and to the beam's own places.

    `softmax([q K_prompt', q K_own'] / sqrt(E)) [V_prompt; V_own]`. Query head `n` reads key/value head `n // (N / G)`.
    Softmax and its sums are float32 whatever the inputs' type.

    Args:
        q_BNKE: Queries.
        prompt_k_BGTE: Keys of the prompt, shared by the beams of a request.
        prompt_v_BGTE: Values of the prompt.
        lengths_B: Prompt places that exist, 0 to `T`; what lies behind them has no weight but
            must be finite.
        own_k_BGKJE: Keys of each beam's own places, `J >= 1`.
        own_v_BGKJE: Values of each beam's own places.

    Returns:
        `[B, N, K, E]`; differentiable in the version for CPU, whose one softmax over both parts equals the merge of two
        by their log-sum-exps and takes less time than it.
    """
    inputs = (q_BNKE, prompt_k_BGTE, prompt_v_BGTE, own_k_BGKJE, own_v_BGKJE)
    if runs_on_gpu(*inputs) and not (torch.is_grad_enabled() and any(part.requires_grad for part in inputs)):
        from kernels.triton.prefix_attention import prefix_attention as on_gpu

        return on_gpu(q_BNKE, prompt_k_BGTE, prompt_v_BGTE, lengths_B, own_k_BGKJE, own_v_BGKJE)
    batch, heads, beams, size = q_BNKE.shape
    groups, places = prompt_k_BGTE.shape[1:3]
    folded, rows = batch * groups, heads // groups * beams
    q = (q_BNKE * size**-0.5).reshape(folded, rows, size)
    scores = torch.cat(
        [
            _prompt_scores(q, prompt_k_BGTE.reshape(folded, places, size), lengths_B),
            torch.einsum("xnke,xkje->xnkj", q.view(folded, -1, beams, size), own_k_BGKJE.flatten(0, 1)).flatten(1, 2),
        ],
        dim=-1,
    )
    weights = scores.float().softmax(dim=-1).to(prompt_v_BGTE.dtype)
    mixed = torch.bmm(weights[..., :places], prompt_v_BGTE.reshape(folded, places, size))
    own_weights = weights[..., places:].view(folded, -1, beams, weights.shape[-1] - places)
    own = torch.einsum("xnkj,xkje->xnke", own_weights, own_v_BGKJE.flatten(0, 1))
    return (mixed + own.reshape(folded, rows, size)).view(batch, heads, beams, size)


def _prompt_scores(q_XRE: Tensor, k_XTE: Tensor, lengths_B: Tensor) -> Tensor:
    """Return `q k'`, `-inf` at places that do not exist."""
    places = k_XTE.shape[1]
    exists_BT = torch.arange(places, device=q_XRE.device) < lengths_B[:, None]
    bias_BT = torch.where(exists_BT, 0.0, -math.inf).to(q_XRE.dtype)
    bias_XRT = bias_BT.repeat_interleave(len(q_XRE) // len(lengths_B), dim=0)[:, None].expand(-1, q_XRE.shape[1], -1)
    return torch.baddbmm(bias_XRT, q_XRE, k_XTE.transpose(1, 2))


def reference_prefix_attention(
    q_BNKE: Tensor,
    prompt_k_BGTE: Tensor,
    prompt_v_BGTE: Tensor,
    lengths_B: Tensor,
    own_k_BGKJE: Tensor,
    own_v_BGKJE: Tensor,
) -> Tensor:
    """Return the same as `prefix_attention`: each beam's keys and values side by side, one query at a time."""
    out_BNKE = torch.empty_like(q_BNKE)
    batch, heads, beams, size = q_BNKE.shape
    for b in range(batch):
        for n in range(heads):
            g = n // (heads // prompt_k_BGTE.shape[1])
            for beam in range(beams):
                keys = torch.cat([prompt_k_BGTE[b, g, : lengths_B[b]], own_k_BGKJE[b, g, beam]]).float()
                values = torch.cat([prompt_v_BGTE[b, g, : lengths_B[b]], own_v_BGKJE[b, g, beam]]).float()
                weights = (keys @ q_BNKE[b, n, beam].float() / math.sqrt(size)).softmax(dim=0)
                out_BNKE[b, n, beam] = (weights @ values).to(q_BNKE.dtype)
    return out_BNKE
