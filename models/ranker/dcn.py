"""Feature crosses of DCN-V2 with full-rank matrices.

Legend: `R` rows, `D` width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """Layers `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l` with `*` elementwise.

    A network of `layers` layers contains all products of up to `layers + 1` inputs (Wang et al., DCN V2, WWW 2021,
    arXiv 2008.13535, equation 1). Matrices start Xavier-normal, biases at zero.

    Args:
        width: `D`, of input and output.
        layers: Number of layers, from 1.

    Raises:
        ValueError: An argument is below 1.

    Example:
        >>> CrossNetwork(width=3, layers=2)(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        if width < 1 or layers < 1:
            raise ValueError(f"expected width and layers of at least 1, got {width} and {layers}")
        linear = [nn.Linear(width, width) for _ in range(layers)]
        for layer in linear:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(linear)

    def forward(self, x_RD: Tensor) -> Tensor:
        """Return the crossed inputs, `[R, D]`."""
        crossed_RD = x_RD
        for layer in self.layers:
            crossed_RD = torch.addcmul(crossed_RD, x_RD, layer(crossed_RD))
        return crossed_RD
