"""The TorchRec form of `models.embedding.bags.PlainBags`: fused optimisers, and sharding over processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
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
        self.collection = EmbeddingBagCollection(tables=[_config(table, self.bags) for table in self.specs])

    def forward(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Look up and pool the vectors of each bag; arguments, result and errors as those of `PlainBags.forward`."""
        check_values(values, self.specs, self.bags)
        rows = {bag.name: len(values[bag.name][1]) - 1 for bag in self.bags}
        most = max(rows.values())
        if not isinstance(self.collection, EmbeddingBagCollection):
            most = int(largest(most)[0])
        lengths = [F.pad(values[name][1].diff(), (0, most - count)) for name, count in rows.items()]
        features = KeyedJaggedTensor(
            keys=list(rows), values=torch.cat([values[name][0] for name in rows]), lengths=torch.cat(lengths)
        )
        pooled = self.collection(features).to_dict()
        return {name: pooled[name][:count] for name, count in rows.items()}


def _config(table: TableSpec, bags: Sequence[BagSpec]) -> EmbeddingBagConfig:
    own = [bag for bag in bags if bag.table == table.name]
    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.rows,
        embedding_dim=table.dimensions,
        feature_names=[bag.name for bag in own],
        pooling=PoolingType.MEAN if own[0].pooling == "mean" else PoolingType.SUM,
        weight_init_min=-table.scale,
        weight_init_max=table.scale,
    )
