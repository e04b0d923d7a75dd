"""Large embedding tables behind one interface: this plain torch form, and `models.training.tables.TorchRecTables`.

Both look ids up without pooling and have the same state dict, so that a model trained on sharded FBGEMM tables is
evaluated, exported and served without TorchRec. Legend: `n` ids of one table in a batch, `D` dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """One embedding table: a `name` that is part of parameter names, its number of `rows` and of `dimensions`.

    FBGEMM reads four numbers at a time: dimensions are a multiple of 4.
    """

    name: str
    rows: int
    dimensions: int

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.rows < 1 or self.dimensions < 1 or self.dimensions % 4:
            raise ValueError(
                f"table: expected an identifier as name, rows >= 1 and a multiple of 4 as dimensions, got name "
                f"{self.name!r}, rows {self.rows}, dimensions {self.dimensions}"
            )


def check_specs(specs: Sequence[TableSpec]) -> tuple[TableSpec, ...]:
    """Return `specs` if they can share one collection.

    Raises:
        ValueError: There is none, two have one name, or dimensions differ (FBGEMM's unpooled lookup needs equal ones).
    """
    names = [spec.name for spec in specs]
    if not specs or len(set(names)) != len(names) or len({spec.dimensions for spec in specs}) != 1:
        described = ", ".join(f"{spec.name} [{spec.rows}, {spec.dimensions}]" for spec in specs)
        raise ValueError(
            f"tables: expected at least one, distinct names and equal dimensions, got {described or 'none'}; "
            "put tables of other dimensions into a collection of their own"
        )
    return tuple(specs)


def check_ids(ids: Mapping[str, Tensor], specs: Sequence[TableSpec]) -> None:
    """Check that `ids` names each table once and holds int64 vectors within range.

    The range is checked on CPU only: on CUDA every step would wait for the answer, and the lookup itself asserts it.

    Raises:
        ValueError: Tables are missing or unknown, or a tensor is not int64 `[n]`.
        IndexError: An id is not below its table's number of rows.
    """
    if ids.keys() != {spec.name for spec in specs}:
        raise ValueError(
            f"ids: expected one entry for each table {sorted(spec.name for spec in specs)}, got {sorted(ids)}; "
            "give an empty tensor where a batch has none"
        )
    for spec in specs:
        values = ids[spec.name]
        if values.dtype != torch.int64 or values.ndim != 1:
            raise ValueError(
                f"ids of table {spec.name!r}: expected int64 of shape [n], got {values.dtype} {tuple(values.shape)}"
            )
        largest = int(values.max()) if values.numel() and not values.is_cuda else -1
        if largest >= spec.rows:
            raise IndexError(f"table {spec.name!r}: id {largest} is out of range, the table has {spec.rows} rows")


def zero_where_absent(vectors_nD: Tensor, ids_n: Tensor) -> Tensor:
    """Replace the vectors of negative ids by zeros, which also keeps gradients from them."""
    return torch.where((ids_n >= 0).unsqueeze(1), vectors_nD, vectors_nD.new_zeros(()))


class PlainTables(nn.Module):
    """Embedding tables as ordinary `nn.Embedding`s, initialised uniformly in +-1/sqrt(rows) as TorchRec does.

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
            nn.init.uniform_(self._weight(spec), -(spec.rows**-0.5), spec.rows**-0.5)

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
