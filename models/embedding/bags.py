"""Pooled lookups behind one interface: this plain torch form, and `models.training.bags.TorchRecBags`.

Both have the same state dict. Several bags may share a table. Legend: `v` ids of one bag in a batch, `R` rows of the
batch, `D` dimensions of the bag's table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding.checks import Bag, check_values
from models.embedding.spec import BagSpec, TableSpec, check_bags


class PlainBags(nn.Module):
    """Pooled embedding tables as ordinary parameters with sparse gradients.

    Args:
        tables: Tables, of any dimensions.
        bags: Which ids are looked up where; every table has at least one.

    Example:
        >>> bags = PlainBags([TableSpec("item", rows=3, dimensions=4)], [BagSpec("seen", "item", "sum")])
        >>> _ = torch.nn.init.ones_(bags.collection.embedding_bags["item"].weight)
        >>> seen = torch.tensor([2, 0, 2]), torch.tensor([0, 2, 2, 3])  # ids [2, 0], none, [2]
        >>> bags({"seen": seen})["seen"].tolist()
        [[2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
        >>> list(bags.state_dict())
        ['collection.embedding_bags.item.weight']
    """

    def __init__(self, tables: Sequence[TableSpec], bags: Sequence[BagSpec]) -> None:
        super().__init__()
        self.specs, self.bags = check_bags(tables, bags)
        self.collection = nn.Module()
        self.collection.embedding_bags = nn.ModuleDict({table.name: _table(table) for table in self.specs})

    def forward(self, values: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Look up and pool the vectors of each bag.

        Args:
            values: Per bag ids int64 `[v]`, 0 <= id < rows, and offsets int64 `[R + 1]`; `R` may differ between bags.

        Returns:
            Per bag float `[R, D]`: the mean or sum of a row's vectors, zeros where it has no id.

        Raises:
            ValueError: Bags are missing or unknown, a tensor is not an int64 vector, or offsets do not fit the ids.
            IndexError: An id is out of range.
        """
        check_values(values, self.specs, self.bags)
        pooled: dict[str, Tensor] = {}
        for table in self.specs:
            pooled |= self._pool(table.name, [bag for bag in self.bags if bag.table == table.name], values)
        return {bag.name: pooled[bag.name] for bag in self.bags}

    def _pool(self, table: str, bags: Sequence[BagSpec], values: Mapping[str, Bag]) -> dict[str, Tensor]:
        """Look the bags of one table up together: one gradient, one pass."""
        parts = [values[bag.name] for bag in bags]
        lengths = torch.cat([offsets.diff() for _, offsets in parts])
        vectors_nD = F.embedding_bag(
            torch.cat([ids_v for ids_v, _ in parts]),
            self.collection.get_parameter(f"embedding_bags.{table}.weight"),
            F.pad(lengths.cumsum(0), (1, 0)),
            mode=bags[0].pooling,
            sparse=True,
            include_last_offset=True,
        )
        rows = [len(offsets) - 1 for _, offsets in parts]
        return {bag.name: part for bag, part in zip(bags, torch.split(vectors_nD, rows), strict=True)}


def _table(spec: TableSpec) -> nn.Module:
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.empty(spec.rows, spec.dimensions).uniform_(-spec.scale, spec.scale))
    return holder
