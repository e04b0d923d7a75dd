"""The item level: what GenRec knows of an item beside its codes, and its score of whole items.

Codes are shared by many items; here every item is seen by itself: by its vector (frozen, of the semantic-ID bundle, so
that an item without a training event has one too) and by its row of the item table. Both are added to the item's token
in the prompt. With an item head the same place that predicts an item's first code is compared to the keys of all items
too, as in sequential recommenders with a softmax over items (SASRec) and as the dense half of COBRA (arXiv 2503.02453)
and LIGER (arXiv 2411.18814).

Legend: `H` history items, `M` response items, `C` candidate items, `D` width, `V` width of an item vector.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from kernels.linear_cross_entropy import linear_cross_entropy


class ItemLevel(nn.Module):
    """Projections of item vectors, and of hidden states to what they are compared with.

    Args:
        width: Of the model, `D`.
        vector_width: Of an item vector, `V`; 0 without vectors.
        head: Whether whole items are scored.
    """

    def __init__(self, width: int, vector_width: int, *, head: bool) -> None:
        super().__init__()
        self.history = nn.Linear(vector_width, width, bias=False) if vector_width else None
        self.key = nn.Linear(vector_width, width, bias=False) if vector_width and head else None
        self.query = nn.Linear(width, width) if head else None
        for part in (self.history, self.key, self.query):
            if part is not None:
                nn.init.normal_(part.weight, std=0.02)
        if self.query is not None:
            nn.init.zeros_(self.query.bias)

    def history_vectors(self, vectors_HV: Tensor, rows_HD: Tensor) -> Tensor:
        """Return what is added to the tokens of history items, `[H, D]`.

        Args:
            vectors_HV: Their vectors.
            rows_HD: Their rows of the item table, zeros where they have none.
        """
        return rows_HD if self.history is None else rows_HD + self.history(vectors_HV)

    def keys(self, vectors_CV: Tensor, rows_CD: Tensor) -> Tensor:
        """Return the keys of items, `[C, D]`; arguments as for `history_vectors`."""
        return rows_CD if self.key is None else rows_CD + self.key(vectors_CV)

    def queries(self, hidden_BD: Tensor) -> Tensor:
        """Return what keys are multiplied with, `[B, D]`: the product is an item's logit."""
        return cast(Tensor, cast(nn.Linear, self.query)(hidden_BD))

    def loss(self, hidden_MD: Tensor, keys_CD: Tensor, target_M: Tensor, weight_M: Tensor) -> Tensor:
        """Return the weighted mean of `-log softmax` over the candidates at each response item.

        Args:
            hidden_MD: The hidden state that predicts each response item's first code.
            keys_CD: Keys of the candidates.
            target_M: The response item's number among the candidates.
            weight_M: Loss weights.
        """
        return linear_cross_entropy(self.queries(hidden_MD), keys_CD, target_M, weight_M)


def item_logits(level: ItemLevel, hidden_BD: Tensor, keys_CD: Tensor) -> Tensor:
    """Return the logits of items, `[B, C]`, float32 under autocast too."""
    with torch.autocast(hidden_BD.device.type, enabled=False):
        return level.queries(hidden_BD.float()) @ keys_CD.float().T
