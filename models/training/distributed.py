"""Processes and sharding: the process group, the plan of the embedding tables, `DistributedModelParallel`.

TorchRec accepts several plans that train nothing or crash on CPU; everything here that looks like a detour (explicit
kernels, restoring weights, checking the first step) guards against one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed import sharding_plan as plans
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingEnv, ShardingPlan
from torchrec.optim.keyed import KeyedOptimizer

from models.training.optimizers import TABLE_EPSILON
from models.training.tables import TorchRecTables

FUSED = "fused"
"""The only compute kernel that trains unpooled tables on CPU: the dense one returns pooled shapes there."""

CPU_OPTIMIZERS = (EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD)
"""Fused optimisers with a CPU kernel that also reshard."""


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes `torchrun` started, or form a group of one; leave a group that stands already alone."""
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
        finally:
            dist.destroy_process_group()


def plan_tables(
    model: nn.Module,
    sharder: EmbeddingCollectionSharder,
    *,
    row_wise_from_rows: int,
    world_size: int,
    device: torch.device,
) -> ShardingPlan:
    """Decide where every row of every `TorchRecTables` in `model` lives.

    Tables of at least `row_wise_from_rows` rows are split over all processes; each smaller one lives on the process
    with the fewest table entries so far.
    """
    load = [0] * world_size
    plan: dict[str, EmbeddingModuleShardingPlan] = {}
    for path, tables in table_modules(model).items():
        placements = {}
        for spec in tables.specs:
            if spec.rows >= row_wise_from_rows:
                placements[spec.name] = plans.row_wise(compute_kernel=FUSED)
            else:
                owner = load.index(min(load))
                load[owner] += spec.rows * spec.dimensions
                placements[spec.name] = plans.table_wise(rank=owner, compute_kernel=FUSED)
        plan[path] = plans.construct_module_sharding_plan(
            tables.collection,
            placements,
            sharder=sharder,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
            world_size=world_size,
            device_type=device.type,
        )
    return ShardingPlan(plan=plan)


def check_plan(plan: ShardingPlan, model: nn.Module, optimizer: EmbOptimType, device: torch.device) -> None:
    """Refuse a plan under which some table would not train.

    Raises:
        ValueError: A table has no placement, a kernel other than the fused one, or the device lacks the optimiser.
    """
    mistakes = []
    if device.type == "cpu" and optimizer not in CPU_OPTIMIZERS:
        names = ", ".join(known.name for known in CPU_OPTIMIZERS)
        mistakes.append(f"optimizer: expected one of {names} on CPU, got {optimizer.name}")
    for path, tables in table_modules(model).items():
        placements: Mapping[str, ParameterSharding] = plan.plan.get(path, {})
        for spec in tables.specs:
            placement = placements.get(spec.name)
            if placement is None:
                mistakes.append(f"{path}: table {spec.name!r} has no placement")
            elif placement.compute_kernel != FUSED:
                mistakes.append(
                    f"{path}: table {spec.name!r}: expected kernel 'fused', got {placement.compute_kernel!r}"
                )
    if mistakes:
        raise ValueError("sharding plan:\n  " + "\n  ".join(mistakes))


def describe_plan(plan: ShardingPlan, model: nn.Module) -> list[str]:
    """Return one line per table: rows, dimensions, megabytes, placement and ranks."""
    lines = []
    for path, tables in table_modules(model).items():
        for spec in tables.specs:
            placement = plan.plan[path][spec.name]
            lines.append(
                f"table {spec.name}: {spec.rows:,} x {spec.dimensions} ({spec.rows * spec.dimensions * 4 / 2**20:.1f} "
                f"MB), {placement.sharding_type} on {placement.ranks}, kernel {placement.compute_kernel}"
            )
    return lines


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


def shard(
    model: nn.Module,
    *,
    learning_rate: float,
    row_wise_from_rows: int,
    device: torch.device,
    optimizer: EmbOptimType = EmbOptimType.EXACT_ROWWISE_ADAGRAD,
) -> Sharded:
    """Shard the tables of `model` in place and wrap it; dense parameters are replicated with averaged gradients.

    Args:
        model: Holds at least one `TorchRecTables`; its `collection`s are replaced.
        learning_rate: First rate of the table updates.
        row_wise_from_rows: See `plan_tables`.
        device: Where the model goes.
        optimizer: Fused optimiser of the tables.

    Returns:
        The wrapped model, with the weights `model` had.

    Raises:
        ValueError: The plan would not train every table.
    """
    world_size = dist.get_world_size()
    fused = {"optimizer": optimizer, "learning_rate": learning_rate, "eps": TABLE_EPSILON}
    sharder = EmbeddingCollectionSharder(fused_params=fused)
    plan = plan_tables(model, sharder, row_wise_from_rows=row_wise_from_rows, world_size=world_size, device=device)
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
            sharders=[sharder],
            # one process has no gradients to average; DDP would only copy them
            init_data_parallel=world_size > 1,
        )
        # sharding initialises tables anew, differently under every plan
        module.load_state_dict(weights)
    return Sharded(module=module, table_optimizer=module.fused_optimizer, plan=lines)


def table_modules(model: nn.Module) -> dict[str, TorchRecTables]:
    """Return the `TorchRecTables` of a model by the path of their collection."""
    found = {f"{path}.collection": part for path, part in model.named_modules() if isinstance(part, TorchRecTables)}
    return {path.removeprefix("."): part for path, part in found.items()}


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

    def _watch(self, path: str, module: nn.Module, _: object, vectors: dict[str, Tensor]) -> None:
        for name, vectors_nD in vectors.items():
            if vectors_nD.requires_grad:
                vectors_nD.register_hook(functools.partial(self._note, f"{path}.{name}"))  # type: ignore[no-untyped-call]

    def _note(self, table: str, gradient_nD: Tensor) -> None:
        self._gradients[table] += float(gradient_nD.abs().sum())

    def _checksums(self) -> dict[str, float]:
        """Return the sum of this process's share of every table."""
        sums = {}
        for path, tables in self._tables.items():
            for name, weight in tables.collection.named_parameters():
                table = name.removeprefix("embeddings.").removesuffix(".weight")
                sums[f"{path}.{table}"] = float(weight.detach().sum(dtype=torch.float64))
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
