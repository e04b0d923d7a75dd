"""Large embedding tables behind one interface: this plain torch form, and `models.training.tables.TorchRecTables`.

Both look ids up without pooling and have the same state dict, so that a model trained on sharded FBGEMM tables is
evaluated, exported and served without TorchRec. Legend: `n` ids of one table in a batch, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding.checks import check_ids
from models.embedding.spec import TableSpec, check_specs


def zero_where_absent(vectors_nD: Tensor, ids_n: Tensor) -> Tensor:
    """Replace the vectors of negative ids by zeros, which also keeps gradients from them."""
    return torch.where((ids_n >= 0).unsqueeze(1), vectors_nD, vectors_nD.new_zeros(()))


class PlainTables(nn.Module):
    """Embedding tables as ordinary `nn.Embedding`s.

    Gradients are sparse: an optimiser step costs time for the rows of a batch, not for the whole table.

    Args:
        specs: Tables of equal dimensions.

    Example:
        >>> tables = PlainTables([TableSpec("item", rows=3, dimensions=4)])
        >>> _ = torch.nn.init.ones_(tables.collection.embeddings["item"].weight)
        >>> tables({"item": torch.tensor([2, -1])})["item"].tolist()
        [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
        >>> list(tables.state_dict())
        ['collection.embeddings.item.weight']
    """

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        super().__init__()
        self.specs = check_specs(specs)
        self.collection = nn.Module()
        self.collection.embeddings = nn.ModuleDict(
            {spec.name: nn.Embedding(spec.rows, spec.dimensions, sparse=True) for spec in self.specs}
        )
        for spec in self.specs:
            nn.init.uniform_(self._weight(spec), -spec.scale, spec.scale)

    def forward(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Look up the vectors of each table.

        Args:
            ids: One int64 tensor `[n]` per table, `id < rows`; a negative id means absent.

        Returns:
            One float tensor `[n, D]` per table; zeros where absent.

        Raises:
            ValueError: Tables are missing or unknown, or a tensor is not int64 `[n]`.
            IndexError: An id is not below its table's number of rows.
        """
        check_ids(ids, self.specs)
        return {spec.name: self._look_up(spec, ids[spec.name]) for spec in self.specs}

    def _look_up(self, spec: TableSpec, ids_n: Tensor) -> Tensor:
        vectors_nD = F.embedding(ids_n.clamp_min(0), self._weight(spec), sparse=True)
        return zero_where_absent(vectors_nD, ids_n)

    def _weight(self, spec: TableSpec) -> nn.Parameter:
        return self.collection.get_parameter(f"embeddings.{spec.name}.weight")
