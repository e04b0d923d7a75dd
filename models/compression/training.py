"""Fits the click model with early stopping on validation log loss.

Legend: `E` examples, `F` fields, `K` lookups per field.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from models.compression.config import ClickConfig
from models.compression.layouts import Layout
from models.compression.network import ClickNetwork

_EVALUATION_ROWS = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedPart:
    """Examples as rows of the table."""

    rows_EFK: Tensor
    label_E: Tensor
    """float32, 0 or 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedNetwork:
    """The network with the weights of its best epoch."""

    network: ClickNetwork
    epochs: int
    """The best epoch, counted from 1."""
    validation_log_loss: float

    def probabilities(self, part: PlacedPart) -> npt.NDArray[np.float64]:
        """Return the predicted probability of each example, `[E]`."""
        return _logits(self.network, part).sigmoid().double().numpy()


def fit(layout: Layout, train: PlacedPart, validation: PlacedPart, config: ClickConfig, *, seed: int) -> FittedNetwork:
    """Train a new network.

    Args:
        layout: Of the table.
        train: Examples learned from.
        validation: Examples whose log loss ends the training.
        config: Network and optimiser.
        seed: Of the initial weights and, apart from them, of the order of examples: equal for all layouts.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ClickNetwork(layout, width=config.width, cross_layers=config.cross_layers, hidden=config.hidden)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    best, best_epoch, best_weights = float("inf"), 0, network.state_dict()
    for epoch in range(1, config.max_epochs + 1):
        _train_epoch(network, optimizer, train, config.batch_size, order)
        loss = float(F.binary_cross_entropy_with_logits(_logits(network, validation), validation.label_E))
        if loss < best:
            best, best_epoch, best_weights = loss, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    network.load_state_dict(best_weights)
    return FittedNetwork(network=network, epochs=best_epoch, validation_log_loss=best)


def _train_epoch(
    network: ClickNetwork,
    optimizer: torch.optim.Optimizer,
    part: PlacedPart,
    batch_size: int,
    order: torch.Generator,
) -> None:
    for batch in torch.split(torch.randperm(len(part.label_E), generator=order), batch_size):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(network(part.rows_EFK[batch]), part.label_E[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def _logits(network: ClickNetwork, part: PlacedPart) -> Tensor:
    return torch.cat([network(rows) for rows in torch.split(part.rows_EFK, _EVALUATION_ROWS)])
