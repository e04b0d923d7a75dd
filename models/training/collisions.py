"""Pooled tables for an endless stream of ids: TorchRec's managed collisions, on CPU, with what it leaves out mended.

What is mended: when a row passes from an evicted id to a new one, its vector is drawn anew and the optimiser's sums of
it are zeroed. TorchRec unsharded does neither; sharded on CPU it stops at row-wise Adagrad, for whose sums it has no
kernel, and leaves the sums of Adagrad as they were.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.mc_embeddingbag import (
    ManagedCollisionEmbeddingBagCollectionSharder,
    ShardedManagedCollisionEmbeddingBagCollection,
)
from torchrec.distributed.types import ParameterSharding, ShardedTensor, ShardingEnv
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import ManagedCollisionCollection

from models.embedding.checks import Bag, check_values
from models.embedding.spec import BagSpec, TableSpec
from models.training.admission import FREE, POLICIES, Admission, mix_ids
from models.training.bags import TorchRecBags
from models.training.collision_config import CollisionConfig


class CollisionBags(TorchRecBags):
    """`TorchRecBags` for ids that are any 64-bit numbers, of which the useful ones get rows of their own.

    In training mode a forward pass counts ids; every `eviction_interval` such passes, ids are admitted and evicted.
    All ids without a row share the last one (of each process). Which id has which row is part of the state dict, the
    ids seen since the last admission are not: a run goes on to the bit from checkpoints at an admission only.
    Sharded, tables are always split by rows, in one process too; only so are the optimiser's sums reset.

    Args:
        tables: Tables, of any dimensions; at least 2 rows on every process.
        bags: Which ids are looked up where.
        config: Who is admitted and evicted, and when.
    """

    def __init__(self, tables: Sequence[TableSpec], bags: Sequence[BagSpec], config: CollisionConfig) -> None:
        super().__init__(tables, bags)
        self._any_ids = tuple(dataclasses.replace(table, rows=FREE, init_scale=1.0) for table in self.specs)
        assert isinstance(self.collection, EmbeddingBagCollection)
        modules: dict[str, Any] = {
            table.name: Admission(
                zch_size=table.rows,
                device=torch.device("cpu"),
                eviction_policy=POLICIES[config.eviction](),
                eviction_interval=config.eviction_interval,
            )
            for table in self.specs
        }
        collisions = ManagedCollisionCollection(modules, self.collection.embedding_bag_configs(), need_preprocess=False)
        self.collection = CollisionCollection(self.collection, collisions)

    def forward(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Look up and pool the vectors of each bag.

        Args:
            values: As for `PlainBags.forward`, but an id is any int64 (a uint64 hash viewed as such).
        """
        mixed = {
            name: (mix_ids(ids_v) if ids_v.dtype == torch.int64 else ids_v, offsets)
            for name, (ids_v, offsets) in values.items()
        }
        check_values(mixed, self._any_ids, self.bags)
        return self._pool(mixed)

    def _look_up(self, features: KeyedJaggedTensor) -> KeyedTensor:
        found: KeyedTensor = self.collection(features)[0]
        return found


class CollisionCollection(ManagedCollisionEmbeddingBagCollection):
    """The unsharded form; rows that pass to other ids get new vectors."""

    def forward(
        self, features: KeyedJaggedTensor, mutate_miss_lengths: bool = True
    ) -> tuple[KeyedTensor, KeyedJaggedTensor | None]:
        """Look up; the second value, rows in place of ids, is not used here."""
        features = self._managed_collision_collection(features, mutate_miss_lengths=mutate_miss_lengths)
        for config in self._embedding_module.embedding_bag_configs():
            rows_r = self._managed_collision_collection._managed_collision_modules[config.name].evict()
            if rows_r is not None:
                weight = self._embedding_module.get_parameter(f"embedding_bags.{config.name}.weight")
                with torch.no_grad():
                    weight[rows_r] = config.init_fn(weight[rows_r])
        return self._embedding_module(features), None


class CollisionSharder(ManagedCollisionEmbeddingBagCollectionSharder):
    """Shards `CollisionCollection` and mends the result."""

    @property
    def module_type(self) -> type[ManagedCollisionEmbeddingBagCollection]:
        """What it shards."""
        return CollisionCollection

    def shard(
        self,
        module: ManagedCollisionEmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedManagedCollisionEmbeddingBagCollection:
        """Shard by rows, as `params` say."""
        sharded = super().shard(module, params, env, device, module_fqn)
        mend_eviction(sharded)
        sharded.register_load_state_dict_pre_hook(_spread)
        return sharded


def mend_eviction(sharded: ShardedManagedCollisionEmbeddingBagCollection) -> None:
    """Make the kernels of this very module zero the optimiser's sums of rows that pass to other ids.

    The vectors of these rows are drawn anew by TorchRec itself right after.
    """
    for kernel, _ in sharded._table_to_tbe_and_index.values():
        # in the module's own namespace: nothing changes for other modules of the class
        kernel.reset_embedding_weight_momentum = functools.partial(_zero_sums, kernel)


def _zero_sums(kernel: Any, *, pruned_indices: Tensor, logical_table_ids: Tensor, **_: Tensor) -> None:
    by_table = kernel.split_optimizer_states()
    for sums in by_table[int(logical_table_ids)] if by_table else ():
        sums[pruned_indices] = 0


def _spread(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take this process's part of a whole state: TorchRec does so for weights, not for the ids that have rows."""
    assert isinstance(module, ShardedManagedCollisionEmbeddingBagCollection)
    own = module._managed_collision_collection.state_dict(prefix=f"{prefix}_managed_collision_collection.")
    if any(isinstance(state.get(name), ShardedTensor) for name in own):
        return
    whole = {name: state[name] for name in own if name in state}
    fresh = all(bool((value == FREE).all()) for name, value in whole.items() if name.endswith("_mch_sorted_raw_ids"))
    for name, value in whole.items():
        if isinstance(own[name], ShardedTensor):
            (shard,) = own[name].local_shards()
            start, size = shard.metadata.shard_offsets[0], shard.metadata.shard_sizes[0]
            shard.tensor.copy_(value[start : start + size])
            state[name] = own[name]
        elif fresh:
            state[name] = own[name]
