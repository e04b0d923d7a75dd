"""Learning-rate schedule, AdamW for dense parameters, optimisers of plain tables, moving average of weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

TABLE_EPSILON = 1e-8
"""Adagrad's epsilon for tables, in FBGEMM and here (torch's own default differs)."""


def rate_factor(progress: float, warmup_fraction: float, schedule: str) -> float:
    """Return the share of the peak learning rate at `progress`, the share of the run done, from 0 to 1.

    Example:
        >>> [rate_factor(progress, 0.2, "linear") for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup_fraction:
        return progress / warmup_fraction
    if schedule == "constant":
        return 1.0
    done = min((progress - warmup_fraction) / (1 - warmup_fraction), 1.0)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def decay_groups(
    parameters: Mapping[str, nn.Parameter], no_decay_names: set[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Split parameters into AdamW groups: matrices decay; vectors and those listed in `no_decay_names` do not."""
    decayed = [value for name, value in parameters.items() if value.ndim >= 2 and name not in no_decay_names]
    spared = [value for name, value in parameters.items() if value.ndim < 2 or name in no_decay_names]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class DenseOptimizer:
    """AdamW over named parameters, with a state that exists from the start and is keyed by parameter name.

    Args:
        parameters: Name -> parameter.
        no_decay_names: Parameters without weight decay, beside all vectors.
        weight_decay: Decoupled decay of the others.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], no_decay_names: set[str], weight_decay: float) -> None:
        self.parameters = dict(parameters)
        groups = decay_groups(self.parameters, no_decay_names, weight_decay)
        self._adamw = torch.optim.AdamW(groups, lr=0.0, fused=True) if groups else None
        self._states = {name: _adamw_state(parameter) for name, parameter in self.parameters.items()}
        if self._adamw is not None:
            self._adamw.state.update({self.parameters[name]: state for name, state in self._states.items()})

    def clip(self, largest_norm: float) -> Tensor:
        """Scale gradients down to `largest_norm` where they exceed it and return their norm before."""
        return nn.utils.clip_grad_norm_(self.parameters.values(), largest_norm)

    def skip(self, names: Collection[str]) -> None:
        """Leave parameters out of the next step: no clipping by them, no update, no decay, no change of their state."""
        for name in names:
            self.parameters[name].grad = None

    def step(self, learning_rate: float) -> None:
        """Update the parameters and drop their gradients."""
        if self._adamw is None:
            return
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the live state tensors by parameter name; loading a checkpoint writes into them."""
        return self._states


def _adamw_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return what AdamW itself would start with at its first step."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


class TableOptimizer:
    """Plain SGD for tables with sparse gradients, equal to FBGEMM's EXACT_SGD; base of the optimisers with a memory.

    For each row with gradient g: `weight -= rate * g / divisor`, here with divisor 1.

    Args:
        parameters: Name -> table `[rows, D]`.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self._sums = {
            name: memory for name, table in self.parameters.items() if (memory := self._memory(table)) is not None
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the rows that got a gradient and drop the gradients."""
        for name, table in self.parameters.items():
            if table.grad is None:
                continue
            gradient = table.grad.coalesce()
            rows_r, gradient_rD = gradient.indices()[0], gradient.values()
            scale = -learning_rate / self._divisor(name, rows_r, gradient_rD)
            table.index_add_(0, rows_r, gradient_rD * scale)
            table.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the live sums by parameter name; loading a checkpoint writes into them."""
        return self._sums

    def _memory(self, table: Tensor) -> Tensor | None:
        return None

    def _divisor(self, name: str, rows_r: Tensor, gradient_rD: Tensor) -> Tensor:
        return gradient_rD.new_ones(1, 1)


class RowWiseAdagrad(TableOptimizer):
    """FBGEMM's EXACT_ROWWISE_ADAGRAD: `sum += mean(g^2); divisor = sqrt(sum) + epsilon`, one sum per row."""

    def _memory(self, table: Tensor) -> Tensor:
        return torch.zeros(len(table), device=table.device)

    def _divisor(self, name: str, rows_r: Tensor, gradient_rD: Tensor) -> Tensor:
        sums_r = self._sums[name].index_add_(0, rows_r, gradient_rD.square().mean(1)).index_select(0, rows_r)
        return (sums_r.sqrt() + TABLE_EPSILON).unsqueeze(1)


class Adagrad(TableOptimizer):
    """FBGEMM's EXACT_ADAGRAD: `sum += g^2; divisor = sqrt(sum) + epsilon`, one sum per weight."""

    def _memory(self, table: Tensor) -> Tensor:
        return torch.zeros_like(table)

    def _divisor(self, name: str, rows_r: Tensor, gradient_rD: Tensor) -> Tensor:
        sums_rD = self._sums[name].index_add_(0, rows_r, gradient_rD.square()).index_select(0, rows_r)
        return sums_rD.sqrt() + TABLE_EPSILON


TABLE_OPTIMIZERS: dict[str, type[TableOptimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": Adagrad,
    "sgd": TableOptimizer,
}
"""By their names in `TrainConfig.table_optimizer`."""


class MovingAverage:
    """Exponential moving average of parameters: `average += (1 - d) (weight - average)`, d = min(decay, (1+t)/(10+t)).

    Args:
        parameters: Name -> parameter.
        decay: Decay per step `t` once the run is old enough.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters: list[Tensor] = list(parameters.values())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._state = dict(zip(parameters, self._averages, strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages into the model for the duration of a `with` block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def put(self) -> None:
        """Put the averages into the model for good."""
        torch._foreach_copy_(self._parameters, self._averages)

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            parameter.data, average.data = average.data, parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        """Return the live averages by parameter name; loading a checkpoint writes into them."""
        return self._state


def no_decay_names(model: nn.Module) -> set[str]:
    """Return what the model's own `no_decay_names()` lists, if it has one, tied parameters under all their names.

    Raises:
        ValueError: It lists a name that is not a parameter.
    """
    listing: Callable[[], set[str]] | None = getattr(model, "no_decay_names", None)
    listed = set(listing()) if listing is not None else set()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if listed - parameters.keys():
        raise ValueError(
            f"no_decay_names: expected names of parameters of the model, got {sorted(listed - parameters.keys())}"
        )
    spared = {id(parameters[name]) for name in listed}
    return {name for name, parameter in parameters.items() if id(parameter) in spared}
