"""Processes and sharding: the process group, and `DistributedModelParallel` around a model with large tables."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import FileStore
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv
from torchrec.optim.keyed import KeyedOptimizer

from models.training.config import TrainConfig
from models.training.plan import OPTIMIZERS, check_plan, describe_plan, plan_tables, sharders

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes `torchrun` started, or form a group of one; leave a group that stands already alone.

    An error within is logged before it ends this process: to the others it looks like a lost connection. A mistake of
    the user's (`ValueError`) needs no traceback: its message is for them.
    """
    if dist.is_initialized():
        yield
        return
    backend = "gloo" if device.type == "cpu" else "nccl"
    with tempfile.TemporaryDirectory() as folder:
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=FileStore(f"{folder}/store", 1), rank=0, world_size=1)
        try:
            yield
        except Exception as error:
            if dist.get_world_size() > 1:
                unexpected = None if isinstance(error, ValueError) else error
                _log.error(
                    "process %d of %d failed: %s", dist.get_rank(), dist.get_world_size(), error, exc_info=unexpected
                )
            raise
        finally:
            dist.destroy_process_group()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharded:
    """A model whose tables are sharded, its fused table optimiser and the plan in words."""

    module: DistributedModelParallel
    table_optimizer: KeyedOptimizer
    plan: list[str]

    def set_table_rate(self, learning_rate: float) -> None:
        """Set the rate of the table updates in coming backward passes.

        FBGEMM updates inside `backward`; the optimiser's `step` does no more than hand the rate over.
        """
        for group in self.table_optimizer.param_groups:
            group["lr"] = learning_rate
        self.table_optimizer.step()


def shard(model: nn.Module, config: TrainConfig, device: torch.device) -> Sharded:
    """Shard the tables of `model` in place and wrap it; dense parameters are replicated with averaged gradients.

    Args:
        model: Holds at least one `TorchRecTables` or `TorchRecBags`; their `collection`s are replaced.
        config: Rate, optimiser and placement of the tables.
        device: Where the model goes.

    Returns:
        The wrapped model, with the weights `model` had.

    Raises:
        ValueError: The plan would not train every table, or a table cannot be split over so many processes.
    """
    world_size, optimizer = dist.get_world_size(), OPTIMIZERS[config.table_optimizer]
    kinds = sharders(optimizer, config.table_learning_rate)
    plan = plan_tables(model, kinds, config, world_size=world_size, device=device)
    check_plan(plan, model, optimizer, device)
    lines = describe_plan(plan, model)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = DistributedModelParallel(
            model,
            env=ShardingEnv.from_process_group(dist.group.WORLD),
            device=device,
            plan=plan,
            sharders=list(kinds.values()),
            # one process has no gradients to average; DDP would only copy them
            init_data_parallel=world_size > 1,
        )
        # sharding initialises tables anew, differently under every plan
        module.load_state_dict(weights)
    return Sharded(module=module, table_optimizer=module.fused_optimizer, plan=lines)
