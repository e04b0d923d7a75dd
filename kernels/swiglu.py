"""A decoder's feed-forward half, `x + dropout(down(silu(gate(n)) * up(n)))`, `n = rms_norm(x)`, for training on CPU.

By operations of torch most of its time goes into passes over memory, not into products. Here the norm's weight is
multiplied into the matrices, gate and up are one product, dropout is bits of a mask, and the backward pass is written
by hand. Legend: `M` rows, `D` width, `F` inner width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.dropout import kept, zero_
from kernels.rms_norm import add_unit_gradient, inverse_rms, rms_norm_reference
from kernels.weight_gradient import normed_gradients, weight_gradient


def swiglu_residual_reference(
    x_MD: Tensor,
    norm_D: Tensor,
    gate_FD: Tensor,
    up_FD: Tensor,
    down_DF: Tensor,
    *,
    eps: float,
    dropped_MD: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Return `x + scale * keep * (silu(n gate^T) * (n up^T)) down^T`, `n = rms_norm(x)`; `keep` is 0 where dropped."""
    normed_MD = rms_norm_reference(x_MD, norm_D, eps)
    out_MD = (F.silu(normed_MD @ gate_FD.T) * (normed_MD @ up_FD.T)) @ down_DF.T
    return x_MD + scale * (out_MD if dropped_MD is None else out_MD * ~dropped_MD)


def swiglu_residual(
    x_MD: Tensor,
    norm_D: Tensor,
    gate_FD: Tensor,
    up_FD: Tensor,
    down_DF: Tensor,
    *,
    eps: float,
    dropped_MD: Tensor | None = None,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the same as `swiglu_residual_reference`, with products and what is kept of them in `dtype`.

    Args:
        x_MD: The residual stream, float32.
        norm_D: Weight of the norm.
        gate_FD: Matrix whose product goes through silu.
        up_FD: Matrix whose product is multiplied with it.
        down_DF: Matrix back to the stream.
        eps: Of the norm.
        dropped_MD: Bool mask of what dropout leaves out; None for nothing.
        scale: Of what it keeps.
        dtype: float32 or bfloat16.

    Returns:
        The residual stream after the branch, float32; differentiable once in everything but the mask.
    """
    out: Tensor = _SwigluResidual.apply(x_MD, norm_D, gate_FD, up_FD, down_DF, eps, dropped_MD, scale, dtype)  # type: ignore[no-untyped-call]
    return out


class _SwigluResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MD: Tensor,
        norm_D: Tensor,
        gate_FD: Tensor,
        up_FD: Tensor,
        down_DF: Tensor,
        eps: float,
        dropped_MD: Tensor | None,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            inverse_M1 = inverse_rms(x_MD, eps)
            unit_MD = (x_MD * inverse_M1).to(dtype)
            both_2FD = torch.cat([gate_FD, up_FD])
            product_2FD = (both_2FD * norm_D).to(dtype)
            product_DF = (down_DF * scale).to(dtype)
            gate_up_M2F = unit_MD @ product_2FD.T
            gate_MF, up_MF = gate_up_M2F.chunk(2, dim=1)
            silu_MF = F.silu(gate_MF)
            inner_MF = silu_MF * up_MF
            out_MD = inner_MF @ product_DF.T
            if dropped_MD is not None:
                zero_(out_MD, dropped_MD)
            ctx.scale = scale
            ctx.save_for_backward(
                x_MD,
                inverse_M1,
                unit_MD,
                gate_up_M2F,
                silu_MF,
                inner_MF,
                both_2FD,
                norm_D,
                product_2FD,
                product_DF,
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
            gate_up_M2F,
            silu_MF,
            inner_MF,
            both_2FD,
            norm_D,
            product_2FD,
            product_DF,
            dropped_MD,
        ) = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            gate_MF, up_MF = gate_up_M2F.chunk(2, dim=1)
            out_gradient_MD = kept(gradient_MD, dropped_MD, unit_MD.dtype)
            inner_gradient_MF = out_gradient_MD @ product_DF
            down_gradient_DF = weight_gradient(out_gradient_MD, inner_MF).mul_(ctx.scale)
            slope_M2F = torch.empty_like(gate_up_M2F)
            gate_slope_MF, up_slope_MF = slope_M2F.chunk(2, dim=1)
            torch.mul(inner_gradient_MF, silu_MF, out=up_slope_MF)
            inner_gradient_MF.mul_(up_MF)
            torch.ops.aten.silu_backward.grad_input(inner_gradient_MF, gate_MF, grad_input=gate_slope_MF)
            both_gradient_2FD, norm_gradient_D, unit_gradient_MD = normed_gradients(
                slope_M2F, unit_MD, both_2FD, norm_D, product_2FD
            )
            gate_gradient_FD, up_gradient_FD = both_gradient_2FD.chunk(2)
            x_gradient_MD = add_unit_gradient(gradient_MD, unit_gradient_MD, x_MD, inverse_M1)
        return (
            x_gradient_MD,
            norm_gradient_D,
            gate_gradient_FD,
            up_gradient_FD,
            down_gradient_DF,
            None,
            None,
            None,
            None,
        )
