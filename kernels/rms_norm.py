"""RMSNorm (Zhang & Sennrich 2019) in few passes over memory, with its derivative, for training on CPU.

Legend: `M` rows, `D` width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm_reference(x_MD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return `x / sqrt(mean(x^2) + eps) * weight`.

    Example:
        >>> normed_MD = rms_norm_reference(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), eps=0.0)
        >>> [round(value, 4) for value in normed_MD[0].tolist()]
        [0.8485, 2.2627]
    """
    return x_MD * (x_MD.square().mean(-1, keepdim=True) + eps).rsqrt() * weight_D


def rms_norm(x_MD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return the same as `rms_norm_reference` for float32 `x`; differentiable once."""
    normed: Tensor = _RMSNorm.apply(x_MD, weight_D, eps)  # type: ignore[no-untyped-call]
    return normed


def inverse_rms(x_MD: Tensor, eps: float) -> Tensor:
    """Return `1 / sqrt(mean(x^2) + eps)`, `[M, 1]`."""
    norm_M1 = torch.linalg.vector_norm(x_MD, dim=-1, keepdim=True)
    return norm_M1.square_().div_(x_MD.shape[-1]).add_(eps).rsqrt_()


def add_unit_gradient(gradient_MD: Tensor, unit_gradient_MD: Tensor, x_MD: Tensor, inverse_M1: Tensor) -> Tensor:
    """Return `gradient + d(x / rms(x)) / dx . unit_gradient`: what reaches `x` beside a residual branch and through it.

    `r (u - x r^2 <u, x> / D)` with `r` the inverse root mean square.
    """
    along_M1 = (unit_gradient_MD * x_MD).sum(-1, keepdim=True).mul_(inverse_M1.pow(3)).div_(x_MD.shape[-1])
    return torch.addcmul(gradient_MD, unit_gradient_MD, inverse_M1).addcmul_(x_MD, along_M1, value=-1)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        inverse_M1 = inverse_rms(x_MD, eps)
        ctx.save_for_backward(x_MD, weight_D, inverse_M1)
        return (x_MD * inverse_M1).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_MD: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, weight_D, inverse_M1 = ctx.saved_tensors
        weight_gradient_D = (gradient_MD * x_MD * inverse_M1).sum(0)
        zero = gradient_MD.new_zeros(())
        return add_unit_gradient(zero, gradient_MD * weight_D, x_MD, inverse_M1), weight_gradient_D, None
