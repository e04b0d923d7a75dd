"""A look at the first training step: whether the tables move."""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.training.bags import TorchRecBags
from models.training.plan import Tables, table_modules

NOTICEABLE = 1e-6
"""Sum of absolute gradients below which a table may stay as it is, by rounding."""


class FirstStepCheck:
    """Watches one training step and refuses to go on if a table got a gradient yet did not change.

    Args:
        model: The model with sharded tables, before its first step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tables = table_modules(model)
        self._device = next(model.parameters()).device
        self._before = self._checksums()
        self._gradients = dict.fromkeys(self._before, 0.0)
        self._handles = [
            tables.register_forward_hook(functools.partial(self._watch, path)) for path, tables in self._tables.items()
        ]

    def _watch(self, path: str, module: Tables, _: object, vectors: dict[str, Tensor]) -> None:
        owners = {bag.name: bag.table for bag in module.bags} if isinstance(module, TorchRecBags) else {}
        for name, part in vectors.items():
            if part.requires_grad:
                part.register_hook(functools.partial(self._note, f"{path}.{owners.get(name, name)}"))  # type: ignore[no-untyped-call]

    def _note(self, table: str, gradient: Tensor) -> None:
        self._gradients[table] += float(gradient.abs().sum())

    def _checksums(self) -> dict[str, float]:
        """Return the sum of this process's share of every table."""
        sums: dict[str, float] = {}
        for path, tables in self._tables.items():
            for name, weight in tables.collection.named_parameters():
                sums[f"{path}.{name.split('.')[-2]}"] = float(weight.detach().sum(dtype=torch.float64))
        return sums

    def finish(self) -> None:
        """Compare after the step, over all processes.

        Raises:
            RuntimeError: A table got a gradient yet did not change.
        """
        for handle in self._handles:
            handle.remove()
        after = self._checksums()
        evidence = [[self._gradients[table], abs(after[table] - self._before[table])] for table in after]
        totals = torch.tensor(evidence, dtype=torch.float64, device=self._device)
        dist.all_reduce(totals)
        stuck = [
            table
            for table, (gradient, change) in zip(after, totals.tolist(), strict=True)
            if gradient > NOTICEABLE and change == 0
        ]
        if stuck:
            raise RuntimeError(
                f"tables {', '.join(stuck)} got gradients in the first step but did not change: their fused optimiser "
                "does not run; check the table learning rate and the sharding plan"
            )
