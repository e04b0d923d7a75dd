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

    `DistributedModelParallel` replaces `collection` by its sharded form; the same forward serves both. The bags of a
    table are looked up as one feature, one below the other: FBGEMM updates tables of several features on a slow path.
    TorchRec wants equally many rows of every feature, on every process too where tables are split by rows; shorter
    ones get empty rows at their end, which the result leaves out::

        bag `seen`    rows [7 3] [3]    table `item`    values  [ 7 3 3 5 | 2 ]
        bag `bought`  rows [5]                          lengths [ 2 1 1   | 1 0 0 ]
        bag `word`    rows [2]          table `word`

    A model should call this once in a training step: each call is an update of its own in the backward pass.

    Args:
        tables: Tables, of any dimensions.
        bags: Which ids are looked up where; every table has at least one.
    """

    def __init__(self, tables: Sequence[TableSpec], bags: Sequence[BagSpec]) -> None:
        super().__init__()
        self.specs, self.bags = check_bags(tables, bags)
        self._bags_of = {table.name: [bag for bag in self.bags if bag.table == table.name] for table in self.specs}
        self.collection: nn.Module = EmbeddingBagCollection(tables=[_config(table) for table in self.specs])

    def forward(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Look up and pool the vectors of each bag; arguments, result and errors as those of `PlainBags.forward`."""
        check_values(values, self.specs, self.bags)
        return self._pool(values)

    def _pool(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        lengths = {
            table: torch.cat([values[bag.name][1].diff() for bag in bags]) for table, bags in self._bags_of.items()
        }
        most = max(1, *(len(lengths_n) for lengths_n in lengths.values()))
        if not isinstance(self.collection, EmbeddingBagCollection):
            most = int(largest(most)[0])
        lengths = {table: F.pad(lengths_n, (0, most - len(lengths_n))) for table, lengths_n in lengths.items()}
        features = KeyedJaggedTensor(
            keys=list(lengths),
            values=torch.cat([values[bag.name][0] for bags in self._bags_of.values() for bag in bags]),
            lengths=torch.cat(list(lengths.values())),
        )
        sums = self._look_up(features).to_dict()
        pooled: dict[str, Tensor] = {}
        for table, bags in self._bags_of.items():
            vectors_nD = sums[table]
            if bags[0].pooling == "mean":
                vectors_nD = vectors_nD / lengths[table].clamp_min(1).unsqueeze(1)
            rows = [len(values[bag.name][1]) - 1 for bag in bags]
            parts = torch.split(vectors_nD, [*rows, most - sum(rows)])
            pooled |= {bag.name: part_RD for bag, part_RD in zip(bags, parts, strict=False)}
        return {bag.name: pooled[bag.name] for bag in self.bags}

    def _look_up(self, features: KeyedJaggedTensor) -> KeyedTensor:
        found: KeyedTensor = self.collection(features)
        return found


def _config(table: TableSpec) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.rows,
        embedding_dim=table.dimensions,
        feature_names=[table.name],
        # TorchRec's means are wrong once a table is split by rows: then it divides all tables by their lengths
        pooling=PoolingType.SUM,
        weight_init_min=-table.scale,
        weight_init_max=table.scale,
    )
