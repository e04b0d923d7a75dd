"""Where every row and column of the embedding tables lives, decided without TorchRec's planner and checked.

TorchRec accepts several plans that train nothing, answer wrongly or crash on CPU; every refusal here is of one that was
seen to do so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec.distributed import sharding_plan as plans
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    ParameterSharding,
    ShardingPlan,
    ShardingType,
)

from models.embedding.spec import TableSpec
from models.training.bags import TorchRecBags
from models.training.collisions import CollisionBags, CollisionSharder
from models.training.config import TrainConfig
from models.training.optimizers import TABLE_EPSILON
from models.training.tables import TorchRecTables

FUSED = "fused"
"""The kernel that updates tables in the backward pass. The dense one leaves them as they are unless another optimiser
has them, and for unpooled tables on CPU returns pooled shapes."""

OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
}
"""Fused optimisers with a CPU kernel, by their names in `TrainConfig.table_optimizer`."""

Tables = TorchRecTables | TorchRecBags


def table_modules(model: nn.Module) -> dict[str, Tables]:
    """Return the `TorchRecTables` and `TorchRecBags` of a model by the path of their collection."""
    found = {f"{path}.collection": part for path, part in model.named_modules() if isinstance(part, Tables)}
    return {path.removeprefix("."): part for path, part in found.items()}


def sharders(optimizer: EmbOptimType, learning_rate: float) -> dict[type[Tables], ModuleSharder[Any]]:
    """Return what shards each kind of collection, with the fused optimiser of its tables."""
    fused = {"optimizer": optimizer, "learning_rate": learning_rate, "eps": TABLE_EPSILON}
    # `models.embedding.checks` refuses ids out of range; FBGEMM would look at them once more
    checked = {**fused, "bounds_check_mode": BoundsCheckMode.NONE}
    return {
        TorchRecTables: EmbeddingCollectionSharder(fused_params=checked),
        TorchRecBags: EmbeddingBagCollectionSharder(fused_params=checked),
        CollisionBags: CollisionSharder(fused_params=fused),
    }


def plan_tables(
    model: nn.Module,
    kinds: Mapping[type[Tables], ModuleSharder[Any]],
    config: TrainConfig,
    *,
    world_size: int,
    device: torch.device,
) -> ShardingPlan:
    """Decide where every table of `model` lives.

    Tables of at least `config.row_wise_from_rows` rows are split by rows over all processes, others of at least
    `config.column_wise_from_dimensions` dimensions by columns; each that is left lives on the process with the fewest
    table entries so far. One process splits no rows, but for managed collisions.

    Raises:
        ValueError: A table that is to be split has too few rows or dimensions for so many processes.
    """
    load = [0] * world_size
    plan: dict[str, EmbeddingModuleShardingPlan] = {}
    mistakes: list[str] = []
    for path, tables in table_modules(model).items():
        kinds_of = {spec.name: _sharding_type(spec, tables, config, world_size) for spec in tables.specs}
        mistakes += [
            f"{path}: {mistake}"
            for spec in tables.specs
            for mistake in _does_not_split(spec, kinds_of[spec.name], world_size)
        ]
        if mistakes:
            continue
        collection, sharder = tables.collection, kinds[type(tables)]
        if isinstance(sharder, CollisionSharder):
            # its own list of placements on CPU is empty
            collection, sharder = tables.collection._embedding_module, sharder._e_sharder
        plan[path] = plans.construct_module_sharding_plan(
            collection,
            {spec.name: _placement(spec, kinds_of[spec.name], load) for spec in tables.specs},
            sharder=sharder,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
            world_size=world_size,
            device_type=device.type,
        )
    if mistakes:
        raise ValueError("sharding plan:\n  " + "\n  ".join(mistakes))
    return ShardingPlan(plan=plan)


def _sharding_type(spec: TableSpec, tables: Tables, config: TrainConfig, world_size: int) -> ShardingType:
    if isinstance(tables, CollisionBags):
        return ShardingType.ROW_WISE
    if spec.rows >= config.row_wise_from_rows:
        # sorting ids by owner costs time even where there is one owner
        return ShardingType.ROW_WISE if world_size > 1 else ShardingType.TABLE_WISE
    wide = config.column_wise_from_dimensions
    return ShardingType.COLUMN_WISE if wide is not None and spec.dimensions >= wide else ShardingType.TABLE_WISE


def _does_not_split(spec: TableSpec, kind: ShardingType, world_size: int) -> list[str]:
    """Return why a table cannot be split over so many processes."""
    rows_each = -(-spec.rows // world_size)
    if kind is ShardingType.ROW_WISE and rows_each * (world_size - 1) >= spec.rows:
        return [
            f"table {spec.name!r}: {spec.rows} rows in {world_size} shards of {rows_each} leave a process without any; "
            "raise row_wise_from_rows or use fewer processes"
        ]
    if kind is ShardingType.COLUMN_WISE and spec.dimensions % (4 * world_size):
        return [
            f"table {spec.name!r}: expected a multiple of {4 * world_size} as dimensions to split them over "
            f"{world_size} processes, got {spec.dimensions}; raise column_wise_from_dimensions or change dimensions"
        ]
    return []


def _placement(spec: TableSpec, kind: ShardingType, load: list[int]) -> plans.ParameterShardingGenerator:
    if kind is ShardingType.ROW_WISE:
        return plans.row_wise(compute_kernel=FUSED)
    if kind is ShardingType.COLUMN_WISE:
        return plans.column_wise(ranks=list(range(len(load))), compute_kernel=FUSED)
    owner = load.index(min(load))
    load[owner] += spec.rows * spec.dimensions
    return plans.table_wise(rank=owner, compute_kernel=FUSED)


def check_plan(plan: ShardingPlan, model: nn.Module, optimizer: EmbOptimType, device: torch.device) -> None:
    """Refuse a plan under which some table would not train, or could not be read by other numbers of processes.

    Raises:
        ValueError: A table has no placement or a kernel other than the fused one, the device lacks the optimiser, or
            row-wise Adagrad meets a table split by columns. The message lists all of these.
    """
    mistakes = []
    if device.type == "cpu" and optimizer not in OPTIMIZERS.values():
        names = ", ".join(known.name for known in OPTIMIZERS.values())
        mistakes.append(f"optimizer: expected one of {names} on CPU, got {optimizer.name}")
    for path, tables in table_modules(model).items():
        placements: Mapping[str, ParameterSharding] = plan.plan.get(path, {})
        for spec in tables.specs:
            mistakes += [
                f"{path}: table {spec.name!r}{wrong}" for wrong in _wrong(placements.get(spec.name), optimizer)
            ]
    if mistakes:
        raise ValueError("sharding plan:\n  " + "\n  ".join(mistakes))


def _wrong(placement: ParameterSharding | None, optimizer: EmbOptimType) -> list[str]:
    if placement is None:
        return [" has no placement"]
    if placement.compute_kernel != FUSED:
        return [f": expected kernel 'fused', got {placement.compute_kernel!r}"]
    by_columns = placement.sharding_type == ShardingType.COLUMN_WISE.value
    if by_columns and optimizer is EmbOptimType.EXACT_ROWWISE_ADAGRAD:
        return [
            " is split by columns, of which row-wise Adagrad keeps a sum each: it would train differently on other "
            "numbers of processes, which could not read its checkpoints; use table_optimizer=adagrad"
        ]
    return []


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
