"""Losses of the heads.

Legend: `R` candidates, `H` heads.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.ranker.config import HEADS


def head_losses(
    logit_RH: Tensor, label_RH: Tensor, rate_R: Tensor, weight_H: Tensor, share: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted binary cross-entropy of all heads.

    `share * sum_r sum_h weight_h * BCE(sigmoid(logit_rh - rate_r), label_rh)`. Where negatives are drawn, an item that
    is drawn `exp(rate)` times as often as it is met has odds that many times too small; subtracting the rate here
    leaves `logit` the log-odds among all items, as logQ correction does for a softmax. That is exact for the click. For
    cart and purchase, what was clicked and no more is a negative that was not drawn: their probabilities come out low,
    by at most the share `1 / (1 + negatives)` of clicked items in the sample.

    Args:
        logit_RH: Log-odds.
        label_RH: 0 or 1.
        rate_R: Log of the expected draws of each item as a negative of its page; 0 where pages were logged.
        weight_H: Weight of each head.
        share: What a row counts; 1 / R for a mean.

    Returns:
        The loss, and each head's cross-entropy.
    """
    loss_RH = F.binary_cross_entropy_with_logits(logit_RH - rate_R.unsqueeze(1), label_RH, reduction="none")
    loss_H = loss_RH.sum(dim=0) * share
    diagnostics = {f"loss_{head}": loss.detach() for head, loss in zip(HEADS, loss_H, strict=True)}
    return (loss_H * weight_H).sum(), diagnostics
