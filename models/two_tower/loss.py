"""Both losses as softmax cross-entropies over cosines.

Legend: `B` examples, `C` candidates (distinct items), `S` items of the self-supervised task, `D` width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sampled_softmax(
    user_BD: Tensor,
    item_CD: Tensor,
    positive_B: Tensor,
    *,
    temperature: float,
    log_q_C: Tensor | None = None,
    correct_positive: bool = True,
    hidden: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the mean of `-log softmax(cosine / temperature - log Q)[positive]` and the share ranked first.

    The denominator over the sampled candidates estimates the one over all items, whose terms it holds with probability
    `Q_j`: dividing a term by `Q_j`, that is subtracting `log Q_j` from its logit, makes the estimate right in the
    mean. Candidates are distinct, hence no example has its own positive among the negatives.

    Args:
        user_BD: Unit vectors.
        item_CD: Unit vectors of the candidates.
        positive_B: The candidate that is each example's positive.
        temperature: Divides cosines.
        log_q_C: Logarithm of each candidate's probability to be one; None: no correction.
        correct_positive: Whether the positive is corrected as well, as Yi et al. do. An example's own positive is
            always among its candidates, so without this the denominator is right in the mean for every example.
        hidden: Examples and candidates, in pairs, that are no negatives: other positives of the same page.

    Source: Yi et al., RecSys 2019, equations 4 to 6; for `correct_positive=False` Khrylchenko et al., "Correcting the
    LogQ Correction", RecSys 2025.
    """
    if log_q_C is None:
        log_q_C = item_CD.new_zeros(len(item_CD), dtype=torch.float32)
    found: tuple[Tensor, Tensor] = SoftmaxLoss.apply(  # type: ignore[no-untyped-call]
        user_BD.float() / temperature, item_CD.float(), positive_B, log_q_C, correct_positive, hidden
    )
    return found


class SoftmaxLoss(torch.autograd.Function):
    """Cross-entropy of `scaled_BD @ item_DC - log Q`, with fewer passes over `[B, C]` than by operations of torch.

    Between the passes only the derivative of the loss by the logits is kept, in the type of the products:
    `softmax - 1` for the positive, `softmax` for all others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scaled_BD: Tensor,
        item_CD: Tensor,
        positive_B: Tensor,
        log_q_C: Tensor,
        correct_positive: bool,
        hidden: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the share ranked first."""
        # under autocast this product, and only this, is of the lower type
        products_BC = torch.addmm(-log_q_C, scaled_BD, item_CD.T)
        own = torch.arange(len(positive_B), device=positive_B.device), positive_B
        if not correct_positive:
            products_BC.index_put_(own, log_q_C[positive_B].to(products_BC.dtype), accumulate=True)
        if hidden is not None:
            products_BC.index_put_(hidden, products_BC.new_tensor(-torch.inf))
        logits_BC = products_BC.float()
        own_B, largest_B = logits_BC[own], logits_BC.amax(1)
        slope_BC = logits_BC.softmax(1)
        # the largest probability is at least 1 / C, so its logarithm is exact where that of the positive's may not be
        losses_B = largest_B - slope_BC.amax(1).log() - own_B
        slope_BC[own] = torch.expm1(-losses_B)
        ctx.save_for_backward(slope_BC.to(products_BC.dtype), scaled_BD, item_CD)
        first = (own_B == largest_B).float().mean()
        ctx.mark_non_differentiable(first)
        return losses_B.mean(), first

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both kinds of vectors."""
        slope_BC, scaled_BD, item_CD = ctx.saved_tensors
        share = gradient / len(slope_BC)
        scaled_gradient_BD = (slope_BC @ item_CD.to(slope_BC.dtype)).float() * share
        item_gradient_CD = (slope_BC.T @ scaled_BD.to(slope_BC.dtype)).float() * share
        return scaled_gradient_BD, item_gradient_CD, None, None, None, None


def mixture_probability(in_batch_C: Tensor, uniform: float) -> Tensor:
    """Return the probability that an item is a candidate: in the batch, or among the evenly drawn, or both.

    Args:
        in_batch_C: Its probability to be in a batch.
        uniform: Its probability to be drawn evenly: draws without repetition divided by items.

    Source: the inclusion probability of the mixture in Yang et al., WWW 2020 companion.

    Example:
        >>> mixture_probability(torch.tensor([0.0, 0.5]), uniform=0.5).tolist()
        [0.5, 0.75]
    """
    return 1 - (1 - in_batch_C) * (1 - uniform)


def contrastive(first_SD: Tensor, second_SD: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the mean of `-log softmax(cosine / temperature)[own]` of one view against all items' other views.

    Args:
        first_SD: Unit vectors of the items' first views.
        second_SD: Those of their second views.
        temperature: Divides cosines.

    Returns:
        The loss, and the share of items whose own second view is the nearest.

    Source: Yao et al., CIKM 2021, equation 3.
    """
    own_S = torch.arange(len(first_SD), device=first_SD.device)
    return sampled_softmax(first_SD, second_SD, own_S, temperature=temperature)
