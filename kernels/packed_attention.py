"""A decoder's attention half, `x + dropout(o(attend(rotate(q(n)), rotate(k(n)), v(n))))`, for training on CPU.

`n = rms_norm(x)`. Written like `kernels.swiglu`: one product for queries, keys and values with the norm's weight
multiplied in, a mask that is added within the product of queries and keys, products and probabilities in bfloat16, a
backward pass by hand. Rows are tens of places long: all of a row's probabilities are kept for the backward pass.
Legend: `B` rows, `T` places, `M = B T`, `D` width, `N` heads, `G` key/value heads, `R` heads of both kinds and keys,
`E` size of one head.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.dropout import kept, zero_
from kernels.rms_norm import add_unit_gradient, inverse_rms, rms_norm_reference
from kernels.weight_gradient import normed_gradients, weight_gradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedRows:
    """What all layers of a step share.

    Attributes:
        cos_BTE, sin_BTE: Rotary cosines and sines of each place, halves laid out as Hugging Face does.
        mask_BTT: True where a place (second dimension) may attend to another (third); each place to one at least.
    """

    cos_BTE: Tensor
    sin_BTE: Tensor
    mask_BTT: Tensor

    def prepared(self, heads: int, kv_heads: int, dtype: torch.dtype) -> PreparedRows:
        """Lay out for products of `dtype`."""
        rows, places, _ = self.cos_BTE.shape
        bias_BTT = torch.zeros(self.mask_BTT.shape, dtype=dtype).masked_fill_(~self.mask_BTT, -torch.inf)
        first, second = self.sin_BTE.chunk(2, dim=-1)
        return PreparedRows(
            heads=heads,
            kv_heads=kv_heads,
            cos_B1TE=self.cos_BTE[:, None].to(dtype),
            sin_B1TE=torch.cat([-first, second], dim=-1)[:, None].to(dtype),
            bias=bias_BTT[:, None].expand(rows, heads, places, places).reshape(rows * kv_heads, -1, places),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedRows:
    """`PackedRows` in the type of the products, made once for all layers.

    Attributes:
        heads, kv_heads: `N` and `G`.
        cos_B1TE: Cosines.
        sin_B1TE: Sines, the first half negated.
        bias: `[B G, N/G T, T]`: 0 where the mask is true, else -infinity.
    """

    heads: int
    kv_heads: int
    cos_B1TE: Tensor
    sin_B1TE: Tensor
    bias: Tensor


def attention_residual_reference(
    x_BTD: Tensor,
    norm_D: Tensor,
    qkv: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    out_DD: Tensor,
    rows: PackedRows,
    *,
    heads: int,
    kv_heads: int,
    eps: float,
    dropped_MD: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Return the stream after the branch; `qkv` holds weight and bias of queries, of keys and of values."""
    batch, places, width = x_BTD.shape
    normed_BTD = rms_norm_reference(x_BTD, norm_D, eps)

    def split(part: int) -> Tensor:
        found = normed_BTD @ qkv[2 * part].T + qkv[2 * part + 1]
        return found.view(batch, places, -1, rows.cos_BTE.shape[-1]).transpose(1, 2)

    def rotated(x_BNTE: Tensor) -> Tensor:
        left, right = x_BNTE.chunk(2, dim=-1)
        return x_BNTE * rows.cos_BTE[:, None] + torch.cat([-right, left], dim=-1) * rows.sin_BTE[:, None]

    group = heads // kv_heads
    q, k, v = rotated(split(0)), rotated(split(1)).repeat_interleave(group, 1), split(2).repeat_interleave(group, 1)
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~rows.mask_BTT[:, None], -torch.inf)
    mixed_BTD = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, places, -1)
    out_BTD = mixed_BTD @ out_DD.T
    return x_BTD + scale * (out_BTD if dropped_MD is None else out_BTD * ~dropped_MD.view(batch, places, width))


def attention_residual(
    x_MD: Tensor,
    norm_D: Tensor,
    qkv: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    out_DD: Tensor,
    rows: PreparedRows,
    *,
    eps: float,
    dropped_MD: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Return the same as `attention_residual_reference`, `[M, D]`, with products in the type of `rows`.

    Args:
        x_MD: The residual stream, float32.
        norm_D: Weight of the norm.
        qkv: Weight and bias of queries, of keys and of values: `[N E, D]`, `[N E]`, `[G E, D]`, ...
        out_DD: Matrix after the heads, `[D, N E]`.
        rows: Positions and mask.
        eps: Of the norm.
        dropped_MD: Bool mask of what dropout leaves out; None for nothing.
        scale: Of what it keeps.

    Returns:
        The residual stream after the branch, float32; differentiable once in stream and weights.
    """
    out: Tensor = _AttentionResidual.apply(x_MD, norm_D, *qkv, out_DD, rows, eps, dropped_MD, scale)  # type: ignore[no-untyped-call]
    return out


class _AttentionResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MD: Tensor,
        norm_D: Tensor,
        q_ED: Tensor,
        q_bias_E: Tensor,
        k_ED: Tensor,
        k_bias_E: Tensor,
        v_ED: Tensor,
        v_bias_E: Tensor,
        out_DD: Tensor,
        rows: PreparedRows,
        eps: float,
        dropped_MD: Tensor | None,
        scale: float,
    ) -> Tensor:
        dtype, shrink = rows.cos_B1TE.dtype, rows.cos_B1TE.shape[-1] ** -0.5
        with torch.autocast("cpu", enabled=False):
            inverse_M1 = inverse_rms(x_MD, eps)
            unit_MD = (x_MD * inverse_M1).to(dtype)
            weight_RD = torch.cat([q_ED * shrink, k_ED, v_ED])
            bias_R = torch.cat([q_bias_E * shrink, k_bias_E, v_bias_E])
            product_RD = (weight_RD * norm_D).to(dtype)
            product_DD = (out_DD * scale).to(dtype)
            q, k, v = _heads(torch.addmm(bias_R.to(dtype), unit_MD, product_RD.T), rows)
            q, k = _rotated(q, rows, 1), _rotated(k, rows, 1)
            scores = torch.baddbmm(rows.bias, q, k.transpose(1, 2))
            weights = scores.softmax(-1, dtype=torch.float32)
            product_weights = weights.to(dtype)
            mixed_MD = _joined([product_weights @ v], rows)
            out_MD = mixed_MD @ product_DD.T
            if dropped_MD is not None:
                zero_(out_MD, dropped_MD)
            ctx.rows, ctx.scale, ctx.shrink = rows, scale, shrink
            ctx.save_for_backward(
                x_MD,
                inverse_M1,
                unit_MD,
                q,
                k,
                v,
                weights,
                product_weights,
                mixed_MD,
                weight_RD,
                norm_D,
                product_RD,
                product_DD,
                dropped_MD,
            )
            return x_MD + out_MD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_MD: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_MD,
            inverse_M1,
            unit_MD,
            q,
            k,
            v,
            weights,
            product_weights,
            mixed_MD,
            weight_RD,
            norm_D,
            product_RD,
            product_DD,
            dropped_MD,
        ) = ctx.saved_tensors
        rows, size = ctx.rows, q.shape[-1]
        with torch.autocast("cpu", enabled=False):
            out_gradient_MD = kept(gradient_MD, dropped_MD, unit_MD.dtype)
            mixed_gradient_MD = out_gradient_MD @ product_DD
            out_gradient_DD = weight_gradient(out_gradient_MD, mixed_MD).mul_(ctx.scale)
            mixed_gradient = _by_head(mixed_gradient_MD, rows, rows.heads)
            v_gradient = product_weights.transpose(1, 2) @ mixed_gradient
            weights_gradient = (mixed_gradient @ v.transpose(1, 2)).float()
            scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, torch.float32).to(q.dtype)
            q_gradient = _rotated(scores_gradient @ k, rows, -1)
            k_gradient = _rotated(scores_gradient.transpose(1, 2) @ q, rows, -1)
            slope_MR = _joined([q_gradient, k_gradient, v_gradient], rows)
            weight_gradient_RD, norm_gradient_D, unit_gradient_MD = normed_gradients(
                slope_MR, unit_MD, weight_RD, norm_D, product_RD
            )
            # as a product: a sum over rows in bfloat16 is not vectorised
            bias_gradient_R = weight_gradient(slope_MR.new_ones(len(slope_MR), 1), slope_MR)[0]
            x_gradient_MD = add_unit_gradient(gradient_MD, unit_gradient_MD, x_MD, inverse_M1)
        sizes = [rows.heads * size, rows.kv_heads * size, rows.kv_heads * size]
        q_ED, k_ED, v_ED = torch.split(weight_gradient_RD, sizes)
        q_E, k_E, v_E = torch.split(bias_gradient_R, sizes)
        q_ED, q_E = q_ED * ctx.shrink, q_E * ctx.shrink
        return x_gradient_MD, norm_gradient_D, q_ED, q_E, k_ED, k_E, v_ED, v_E, out_gradient_DD, None, None, None, None


def _heads(joined_MR: Tensor, rows: PreparedRows) -> list[Tensor]:
    """Split queries, keys and values and lay each out by heads: `[B G, N/G T, E]`, `[B G, T, E]` twice."""
    size = rows.cos_B1TE.shape[-1]
    counts = [rows.heads, rows.kv_heads, rows.kv_heads]
    parts = torch.split(joined_MR, [count * size for count in counts], dim=1)
    return [_by_head(part, rows, count) for part, count in zip(parts, counts, strict=True)]


def _by_head(part_MD: Tensor, rows: PreparedRows, count: int) -> Tensor:
    batch, _, places, size = rows.cos_B1TE.shape
    laid_out = part_MD.reshape(batch, places, count, size).transpose(1, 2)
    return laid_out.reshape(batch * rows.kv_heads, -1, size)


def _joined(parts: list[Tensor], rows: PreparedRows) -> Tensor:
    """Return the heads of the parts side by side, `[M, R E]`."""
    batch, _, places, size = rows.cos_B1TE.shape
    return (
        torch.cat([part.view(batch, -1, places, size) for part in parts], 1).transpose(1, 2).reshape(batch * places, -1)
    )


def _rotated(x: Tensor, rows: PreparedRows, sign: int) -> Tensor:
    """Turn queries or keys by their positions, or back with `sign` -1; overwrites `x`."""
    batch, _, places, size = rows.cos_B1TE.shape
    x_BNTE = x.view(batch, -1, places, size)
    left, right = x_BNTE.chunk(2, dim=-1)
    swapped = torch.cat([right, left], dim=-1)
    x_BNTE.mul_(rows.cos_B1TE).addcmul_(swapped, rows.sin_B1TE, value=sign)
    return x
