"""One training step: forward, backward, the optimisers of dense parameters and tables, and their whole state.

The loop sees one `Engine`; whether tables are plain or sharded by TorchRec is decided here, by what the model holds.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.embedding.bags import PlainBags
from models.embedding.plain import PlainTables
from models.precision import autocast_type
from models.training.config import TrainConfig
from models.training.optimizers import TABLE_OPTIMIZERS, DenseOptimizer, MovingAverage, no_decay_names


class Engine(Protocol):
    """A model with its optimisers."""

    plan: list[str]
    """Where tables live, one line each; empty for plain tables."""

    def step(self, batch: Any, rate_factor: float, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Train on a batch.

        Args:
            batch: What the model takes.
            rate_factor: Share of the peak rates.
            progress: Share of the run done: what the model's own `held_names(progress)` names, if it has one, stays as
                it is.

        Returns:
            Loss and diagnostics, detached.
        """
        ...

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the model has its averaged weights, if averaging is on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return live tensors and sharded tensors: a checkpoint writes them, or reads into them."""
        ...

    def use_averaged(self) -> None:
        """Put the averaged weights into the model for good, if averaging is on."""
        ...


def build_engine(model: nn.Module, config: TrainConfig, device: torch.device) -> Engine:
    """Return the engine a model needs; its process group must stand already if it holds TorchRec's tables or bags."""
    return ShardedEngine(model, config, device) if holds_torchrec(model) else PlainEngine(model, config, device)


def holds_torchrec(model: nn.Module) -> bool:
    """Whether a part of `model` is sharded by TorchRec; does not import it where no model can hold one."""
    forms = (("models.training.tables", "TorchRecTables"), ("models.training.bags", "TorchRecBags"))
    kinds = tuple(getattr(sys.modules[module], name) for module, name in forms if module in sys.modules)
    return any(isinstance(part, kinds) for part in model.modules())


class _BaseEngine:
    """What both engines share: the dense half of a step and of the state."""

    plan: list[str]
    module: nn.Module

    def __init__(self, model: nn.Module, dense: Mapping[str, nn.Parameter], config: TrainConfig, device: torch.device):
        self.config, self.device = config, device
        self.autocast = autocast_type(config.precision, device)
        self.dense = DenseOptimizer(dense, no_decay_names(model), config.weight_decay)
        self.average = MovingAverage(dense, config.ema_decay) if config.ema_decay is not None and dense else None
        self.average_steps = torch.zeros((), dtype=torch.int64)
        self._held_names: Callable[[float], set[str]] = getattr(model, "held_names", lambda progress: set())

    def _dense_step(self, batch: Any, rate_factor: float, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if self.device.type != "cpu" and hasattr(batch, "to"):
            batch = batch.to(self.device)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            loss, diagnostics = self.module(batch)
        loss.backward()
        # Dropped, not left out: DistributedDataParallel waits for a gradient of every parameter it knew at first.
        self.dense.skip(self._held_names(progress))
        noted = {name: value.detach() for name, value in diagnostics.items()}
        if self.config.gradient_clip is not None and self.dense.parameters:
            noted["gradient_norm"] = self.dense.clip(self.config.gradient_clip).detach()
        self.dense.step(self.config.learning_rate * rate_factor)
        if self.average is not None:
            self.average_steps += 1
            self.average.update(int(self.average_steps))
        return loss.detach(), noted

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the model has its averaged weights, if averaging is on."""
        return self.average.swapped() if self.average is not None else contextlib.nullcontext()

    def use_averaged(self) -> None:
        """Put the averaged weights into the model for good, if averaging is on."""
        if self.average is not None:
            self.average.put()

    def _dense_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"dense": self.dense.state_dict()}
        if self.average is not None:
            state["average"] = {"weights": self.average.state_dict(), "steps": self.average_steps}
        return {name: part for name, part in state.items() if part}


class PlainEngine(_BaseEngine):
    """A model without sharded tables, on CPU or CUDA; several processes average gradients by DDP."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        self.model = model.to(device)
        self.plan = []
        tables = {
            id(weight)
            for part in model.modules()
            if isinstance(part, PlainTables | PlainBags)
            for weight in part.parameters()
        }
        named = dict(model.named_parameters())
        super().__init__(
            model, {name: value for name, value in named.items() if id(value) not in tables}, config, device
        )
        self.tables = TABLE_OPTIMIZERS[config.table_optimizer](
            {name: value for name, value in named.items() if id(value) in tables}
        )
        self.module = model
        if dist.is_initialized() and dist.get_world_size() > 1:
            if tables:
                raise ValueError(
                    "plain tables train in one process only; build the model with TorchRecTables or TorchRecBags"
                )
            self.module = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def step(self, batch: Any, rate_factor: float, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Train on a batch; see `Engine`."""
        result = self._dense_step(batch, rate_factor, progress)
        self.tables.step(self.config.table_learning_rate * rate_factor)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return live state for a checkpoint."""
        state = {"model": self.model.state_dict(), **self._dense_state()}
        sums = self.tables.state_dict()
        return {**state, "tables": sums} if sums else state


class ShardedEngine(_BaseEngine):
    """A model with `TorchRecTables` or `TorchRecBags` under `DistributedModelParallel`, in any number of processes."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        from torchrec.optim.optimizers import in_backward_optimizer_filter

        from models.training.distributed import shard
        from models.training.first_step import FirstStepCheck

        self.sharded = shard(model, config, device)
        self.module, self.plan = self.sharded.module, self.sharded.plan
        dense = dict(in_backward_optimizer_filter(self.module.named_parameters()))
        super().__init__(model, dense, config, device)
        self.first_step: FirstStepCheck | None = FirstStepCheck(model)

    def step(self, batch: Any, rate_factor: float, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Train on a batch; see `Engine`."""
        self.sharded.set_table_rate(self.config.table_learning_rate * rate_factor)
        result = self._dense_step(batch, rate_factor, progress)
        if self.first_step is not None:
            self.first_step.finish()
            self.first_step = None
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return live state for a checkpoint."""
        sums = {name: part for name, part in self.sharded.table_optimizer.state_dict()["state"].items() if part}
        state = {"model": self.module.state_dict(), **self._dense_state()}
        return {**state, "tables": sums} if sums else state
