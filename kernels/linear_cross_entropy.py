"""Cross-entropy over the products with many classes, without keeping the logits for the backward pass.

Legend: `M` examples, `C` classes, `D` width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 512
"""Examples whose logits are in memory at the same time."""


def linear_cross_entropy(x_MD: Tensor, classes_CD: Tensor, target_M: Tensor, weight_M: Tensor) -> Tensor:
    r"""Return the weighted mean of `-log softmax(x_m \cdot classes)[target_m]`.

    The gradients are worked out in the forward pass, some rows at a time: memory does not grow with `M x C`, and each
    logit is touched a third as often as by separate operations. Under autocast products and probabilities are of its
    type, sums are float32. Cost: three products of `M x C x D`.

    Args:
        x_MD: Examples.
        classes_CD: A vector per class.
        target_M: The right class of each example, int64.
        weight_M: Not negative, with a positive sum; no gradient flows to it.

    Returns:
        A scalar, float32 (float64 for float64 input).

    Example:
        >>> x, classes = torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]).log1p()
        >>> round(float(linear_cross_entropy(x, classes, torch.tensor([1]), torch.ones(1)).neg().exp()), 4)
        0.8
    """
    autocast = torch.is_autocast_enabled(x_MD.device.type)
    dtype = torch.get_autocast_dtype(x_MD.device.type) if autocast else x_MD.dtype
    share_M = weight_M / weight_M.sum()
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        x_MD, classes_CD, target_M, share_M, dtype
    )
    return loss


def linear_cross_entropy_reference(x_MD: Tensor, classes_CD: Tensor, target_M: Tensor, weight_M: Tensor) -> Tensor:
    """Return what `linear_cross_entropy` does, by separate operations."""
    nll_M = F.cross_entropy(x_MD @ classes_CD.T, target_M, reduction="none")
    return (weight_M * nll_M).sum() / weight_M.sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_MD: Tensor, classes_CD: Tensor, target_M: Tensor, share_M: Tensor, dtype: torch.dtype
    ) -> Tensor:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        x, classes = x_MD.to(dtype), classes_CD.to(dtype)
        loss = torch.zeros((), dtype=wide, device=x.device)
        x_gradient, classes_gradient = torch.empty_like(x_MD, dtype=wide), torch.zeros_like(classes_CD, dtype=wide)
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, len(x), ROWS):
                here = slice(start, start + ROWS)
                p_RC = (x[here] @ classes.T).softmax(dim=1)
                right = (torch.arange(len(p_RC), device=x.device), target_M[here])
                share_R = share_M[here].to(wide)
                loss -= (share_R * p_RC[right].to(wide).clamp_min(torch.finfo(wide).tiny).log()).sum()
                p_RC[right] -= 1
                p_RC *= share_R.to(dtype)[:, None]
                x_gradient[here] = p_RC @ classes
                classes_gradient += p_RC.T @ x[here]
        ctx.save_for_backward(x_gradient, classes_gradient)
        ctx.dtypes = x_MD.dtype, classes_CD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        parts = (part * gradient for part in ctx.saved_tensors)
        x_gradient, classes_gradient = (part.to(dtype) for part, dtype in zip(parts, ctx.dtypes, strict=True))
        return x_gradient, classes_gradient, None, None, None
