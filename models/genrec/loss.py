"""Page-wise next-token prediction (arXiv 2604.14878, Eq. 4); point-wise NTP is the same on one-item pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from models.genrec.batch import PackedBatch

if TYPE_CHECKING:
    from models.genrec.model import GenRec


def page_loss(
    model: GenRec, hidden_BTD: Tensor, batch: PackedBatch, keys_CD: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted mean over response items of the summed cross-entropy of their codes, and of the items themselves.

    `L = sum_m w_m sum_l -log P(code_ml | prompt, earlier codes of the page) / sum_m w_m`, the softmax taken over the
    codes of level `l` only (other tokens can never follow). An item head adds `item_head` times the same mean of
    `-log P(item_m | prompt, earlier codes of the page)`, the softmax taken over the candidates.

    Args:
        model: Gives the logits of each level.
        hidden_BTD: Last hidden states.
        batch: Targets.
        keys_CD: Keys of the item head's candidates; None without one.

    Returns:
        The loss (nats per item) and detached diagnostics: `loss_level_<l>`, `loss_items` with an item head, and
        `loss_first_slot`, the codes' loss over the first item of each page, the only number comparable between
        page-wise and point-wise training.
    """
    flat = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    return target_loss(model, flat.index_select(0, batch.target_places_ML.reshape(-1)), batch, keys_CD)


def target_loss(
    model: GenRec, hidden_XD: Tensor, batch: PackedBatch, keys_CD: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return `page_loss` from the hidden states of the target places alone, `X = M L` of them."""
    hidden_MLD = hidden_XD.view(*batch.target_places_ML.shape, -1)
    weight_M = batch.target_weight_M
    total = weight_M.sum()
    first_M = batch.target_slot_M == 0
    diagnostics: dict[str, Tensor] = {}
    item_loss_M = torch.zeros_like(weight_M)
    for level in range(model.vocabulary.levels):
        logits_MC = model.level_logits(hidden_MLD[:, level], level).float()
        nll_M = F.cross_entropy(
            logits_MC,
            batch.target_codes_ML[:, level],
            reduction="none",
            label_smoothing=model.config.label_smoothing,
        )
        diagnostics[f"loss_level_{level}"] = (weight_M * nll_M).detach().sum() / total
        item_loss_M = item_loss_M + nll_M
    loss = (weight_M * item_loss_M).sum() / total
    diagnostics["loss_first_slot"] = item_loss_M.detach()[first_M].mean()
    if keys_CD is not None:
        items = model.item_level.loss(hidden_MLD[:, 0], keys_CD, batch.target_candidate_M, weight_M)
        diagnostics["loss_items"] = items.detach()
        loss = loss + model.config.item_head * items
    return loss, diagnostics
