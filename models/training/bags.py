"""The TorchRec form of `models.embedding.bags.PlainBags`: fused optimisers, and sharding over processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor
from torchrec.modules.embedding_configs import PoolingType

from models.embedding.checks import Bag, check_values
from models.embedding.spec import BagSpec, TableSpec, check_bags
from models.training.processes import largest


class TorchRecBags(nn.Module):
    """Pooled tables in a TorchRec `EmbeddingBagCollection`; same forward and state dict as `PlainBags`.

    `DistributedModelParallel` replaces `collection` by its sharded form; the same forward serves both. TorchRec wants
    equally many rows of every bag, on every process too where tables are split by rows; shorter bags get empty rows
    at their end, which the result leaves out::

        bag `seen`    rows [7 3] [3]            values  [ 7 3 3 | 5 ]
        bag `bought`  rows [5]                  lengths [ 2 1   | 1 0 ]

    A model should call this once in a training step: each call is an update of its own in the backward pass.

    Args:
        tables: Tables, of any dimensions.
        bags: Which ids are looked up where; every table has at least one.
    """

    def __init__(self, tables: Sequence[TableSpec], bags: Sequence[BagSpec]) -> None:
        super().__init__()
        self.specs, self.bags = check_bags(tables, bags)
        self.collection: nn.Module = EmbeddingBagCollection(tables=[_config(table, self.bags) for table in self.specs])

    def forward(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Look up and pool the vectors of each bag; arguments, result and errors as those of `PlainBags.forward`."""
        check_values(values, self.specs, self.bags)
        return self._pool(values)

    def _pool(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        rows = {bag.name: len(values[bag.name][1]) - 1 for bag in self.bags}
        most = max(1, *rows.values())
        if not isinstance(self.collection, EmbeddingBagCollection):
            most = int(largest(most)[0])
        lengths = {name: values[name][1].diff() for name in rows}
        features = KeyedJaggedTensor(
            keys=list(rows),
            values=torch.cat([values[name][0] for name in rows]),
            lengths=torch.cat([F.pad(part_R, (0, most - len(part_R))) for part_R in lengths.values()]),
        )
        pooled = self._look_up(features).to_dict()
        sums = {name: pooled[name][:count] for name, count in rows.items()}
        return {
            bag.name: sums[bag.name] / lengths[bag.name].clamp_min(1).unsqueeze(1)
            if bag.pooling == "mean"
            else sums[bag.name]
            for bag in self.bags
        }

    def _look_up(self, features: KeyedJaggedTensor) -> KeyedTensor:
        found: KeyedTensor = self.collection(features)
        return found


def _config(table: TableSpec, bags: Sequence[BagSpec]) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.rows,
        embedding_dim=table.dimensions,
        feature_names=[bag.name for bag in bags if bag.table == table.name],
        # TorchRec's means are wrong once a table is split by rows: then it divides all tables by their lengths
        pooling=PoolingType.SUM,
        weight_init_min=-table.scale,
        weight_init_max=table.scale,
    )
