"""Dropout whose random bits come from numpy's SFC64: torch's CPU Bernoulli draws cost more than a matrix product."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def random_mask(shape: tuple[int, ...], p: float, seed: int) -> Tensor:
    """Return a bool mask that is true with probability `round(256 p) / 256`, equal for equal seeds.

    Example:
        >>> bool(random_mask((4,), 0.0, seed=1).any())
        False
    """
    stream = np.random.Generator(np.random.SFC64(seed))
    size = int(np.prod(shape))
    drawn = np.frombuffer(stream.bytes(size), dtype=np.uint8) < round(256 * p)
    return torch.from_numpy(drawn).view(shape)


def zero_(x: Tensor, dropped: Tensor) -> Tensor:
    """Set the elements of `x` to zero, in place, where the mask `dropped` is true; bit by bit, which is vectorised.

    Example:
        >>> zero_(torch.ones(3), torch.tensor([True, False, True])).tolist()
        [0.0, 1.0, 0.0]
    """
    bits = torch.int16 if x.element_size() == 2 else torch.int32
    x.view(bits).bitwise_and_((dropped.view(torch.int8) - 1).to(bits))
    return x


def kept(x: Tensor, dropped: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return `x` as `dtype`, zero where the mask `dropped` is true; `x` itself stays as it is.

    Example:
        >>> kept(torch.ones(2), torch.tensor([True, False]), torch.float32).tolist()
        [0.0, 1.0]
    """
    out = x.to(dtype, copy=dropped is not None)
    return out if dropped is None else zero_(out, dropped)


class Dropout(nn.Module):
    """`nn.Dropout` for CPU training: zero each element with probability `p`, scale the rest by `1 / (1 - p)`.

    `p` is rounded to 1/256. The mask's seed is drawn from torch's global generator, hence saved and restored with it.
    On other devices it is torch's own dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = round(256 * p) / 256

    def forward(self, x: Tensor) -> Tensor:
        """Apply in training mode, else return `x`."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = self.training_mask(x.shape)
        # a product with 0 and 1: torch's masked_fill costs ten times as much
        assert dropped is not None
        return x * self.scale * (1 - dropped.view(torch.int8)).to(x.dtype)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied with in training."""
        return 1 / (1 - self.p)

    def training_mask(self, shape: tuple[int, ...]) -> Tensor | None:
        """Draw a new mask on CPU, true where an element is dropped; None where none is."""
        if not self.p:
            return None
        return random_mask(tuple(shape), self.p, int(torch.randint(2**62, ())))
