"""The click model of the comparison: one table under DCN-V2 and a dense network, the same for every way to lay it out.

Legend: `R` rows (examples), `F` fields, `K` lookups per field, `D` width of a field's embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.compression.layouts import Layout
from models.ranker.dcn import CrossNetwork

START = 0.05
"""Rows start uniform within this distance of zero; torch's unit normal costs some five points of AUC."""


class TableEmbeddings(nn.Module):
    """The one table of a layout: `[R, F, K]` rows -> `[R, F * D]` embeddings.

    Example:
        >>> from models.compression.layouts import Field, build_layout
        >>> import numpy as np
        >>> color = Field(name="color", values_V=np.array([5, 7], dtype=np.uint64))
        >>> layout = build_layout("collisionless", [color], width=4, budget_bytes=48, exact_values=8, probes=2)
        >>> rows = torch.from_numpy(layout.place({"color": np.array([7, 6], dtype=np.uint64)}))
        >>> rows.tolist(), TableEmbeddings(layout)(rows).shape
        ([[[2]], [[0]]], torch.Size([2, 4]))
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.product = layout.product
        start = torch.empty(layout.rows, layout.width).uniform_(-START, START)
        start[layout.first_factor :] += 1
        self.table = nn.Parameter(start)
        self.register_buffer("ones", torch.ones(1, layout.width), persistent=False)

    @property
    def bytes(self) -> int:
        """Bytes of the trained numbers."""
        return self.table.numel() * self.table.element_size()

    def forward(self, rows_RFK: Tensor) -> Tensor:
        """Look up and concatenate, or multiply each field's two rows."""
        if not self.product:
            return F.embedding(rows_RFK, self.table).flatten(1)
        with_ones = torch.cat([self.table, self.get_buffer("ones")])
        return F.embedding(rows_RFK, with_ones).prod(dim=2).flatten(1)


class ClickNetwork(nn.Module):
    """Embeddings, crosses, dense layers and one logit.

    Args:
        layout: Of the table.
        width: `D`.
        cross_layers: Layers of the cross network.
        hidden: Widths of the dense layers after it.
    """

    def __init__(self, layout: Layout, *, width: int, cross_layers: int, hidden: Sequence[int]) -> None:
        super().__init__()
        inputs = len(layout.lookups) * width
        self.cross = CrossNetwork(inputs, cross_layers)
        widths = [inputs, *hidden, 1]
        linear = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
        for layer in linear:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.dense = nn.ModuleList(linear)
        self.embeddings = TableEmbeddings(layout)

    def forward(self, rows_RFK: Tensor) -> Tensor:
        """Return `[R]` logits."""
        hidden_RH: Tensor = self.cross(self.embeddings(rows_RFK))
        *inner, last = self.dense
        for layer in inner:
            hidden_RH = layer(hidden_RH).relu()
        logits_R: Tensor = last(hidden_RH).squeeze(1)
        return logits_R
