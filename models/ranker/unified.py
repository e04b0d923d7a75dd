"""One table shared by many features, and a small one beside it for features with few values.

Coleman et al., Unified Embedding, NeurIPS 2023, arXiv 2305.12102. Every probe of a feature is looked up by itself and
put beside the others, never added to them: what is only ever concatenated can be told apart by the layers above, what
is summed cannot.

Legend: `V` values, `S` slots of all rows, `D` dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.columns import Columns
from models.embedding.spec import TableSpec
from models.ranker.config import RankerConfig
from models.ranker.encoding import EncodedRows
from models.ranker.layout import Layout, Side

TABLE = "unified"
INITIAL = 0.05
"""Rows start uniform in +-0.05; a wider start costs AUC."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Values:
    """The id values of several sides, one after the other, ready for one lookup.

    Attributes:
        ids, slots, weights: Of values in the shared table; slots count over all sides' rows.
        exact_ids, exact_slots, exact_weights: Of values with exact rows.
        rows: Number of rows of each side.
        slots_per_row: Slots of a row of each side.
    """

    ids: Tensor
    slots: Tensor
    weights: Tensor
    exact_ids: Tensor
    exact_slots: Tensor
    exact_weights: Tensor
    rows: tuple[int, ...]
    slots_per_row: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[Side, EncodedRows]], shared_rows: int) -> Values:
        """Join the encoded rows of sides."""
        ids, slots, weights, first = [], [], [], 0
        for side, encoded in parts:
            starts = first + np.arange(len(encoded)) * side.slots
            slots.append(np.repeat(starts, np.diff(encoded.offsets)) + encoded.slots)
            ids.append(encoded.ids)
            weights.append(encoded.weights)
            first += len(encoded) * side.slots
        id_V, slot_V, weight_V = np.concatenate(ids), np.concatenate(slots), np.concatenate(weights)
        exact_V = id_V >= shared_rows
        shared, exact = np.flatnonzero(~exact_V), np.flatnonzero(exact_V)
        return cls(
            ids=torch.from_numpy(id_V[shared]),
            slots=torch.from_numpy(slot_V[shared]),
            weights=torch.from_numpy(weight_V[shared]),
            exact_ids=torch.from_numpy(id_V[exact] - shared_rows),
            exact_slots=torch.from_numpy(slot_V[exact]),
            exact_weights=torch.from_numpy(weight_V[exact]),
            rows=tuple(len(encoded) for _, encoded in parts),
            slots_per_row=tuple(side.slots for side, _ in parts),
        )


class UnifiedEmbedding(nn.Module):
    """Looks the values of all sides up in one call and averages them per slot.

    Args:
        dimensions: Of a row.
        layout: The features.
        tables: Unpooled lookup of the one table `TABLE` (`PlainTables`, `TorchRecTables` or a quantised form).
    """

    def __init__(self, dimensions: int, layout: Layout, tables: nn.Module) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.tables = tables
        self.exact = nn.Embedding(max(layout.exact_rows, 1), dimensions)
        nn.init.uniform_(self.exact.weight, -INITIAL, INITIAL)
        with torch.no_grad():
            self.exact.weight[layout.unknown_rows] = 0

    @staticmethod
    def table_specs(config: RankerConfig) -> list[TableSpec]:
        """Return the one table."""
        return [TableSpec(TABLE, rows=config.rows, dimensions=config.dimensions, init_scale=INITIAL)]

    def forward(self, values: Values) -> list[Tensor]:
        """Return the vectors of each side's rows, `[rows, slots x D]`; a slot without values is zero."""
        found: Mapping[str, Tensor] = self.tables({TABLE: values.ids})
        sizes = [rows * slots for rows, slots in zip(values.rows, values.slots_per_row, strict=True)]
        shared_VD = found[TABLE].float() * values.weights.unsqueeze(1)
        exact_VD = F.embedding(values.exact_ids, self.exact.weight) * values.exact_weights.unsqueeze(1)
        pooled_SD = shared_VD.new_zeros(sum(sizes), self.dimensions)
        pooled_SD = pooled_SD.index_add(0, values.slots, shared_VD)
        pooled_SD = pooled_SD.index_add(0, values.exact_slots, exact_VD.to(pooled_SD.dtype))
        parts = torch.split(pooled_SD, sizes)
        return [
            part.view(rows, slots * self.dimensions)
            for part, rows, slots in zip(parts, values.rows, values.slots_per_row, strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableStatistics:
    """How full the shared table is."""

    rows: int
    dimensions: int
    vocabularies: dict[str, int]
    """Distinct values in training of each feature with hashed rows."""
    lookups: int
    """Sum over these features of values x probes."""
    used_rows: int
    """Rows that at least one value is looked up in."""
    exact_rows: int

    @property
    def load(self) -> float:
        """Values x probes per row."""
        return self.lookups / self.rows

    def lines(self) -> list[str]:
        """Return the statistics for a terminal."""
        largest = sorted(self.vocabularies.items(), key=lambda entry: -entry[1])[:5]
        named = ", ".join(f"{name} {size:,}" for name, size in largest)
        return [
            f"shared table: {self.rows:,} x {self.dimensions} ({self.rows * self.dimensions * 4 / 2**20:.1f} MB), "
            f"{self.used_rows / self.rows:.0%} of its rows in use, {self.load:.2f} values x probes per row "
            f"({named}); {self.exact_rows:,} exact rows"
        ]


def table_statistics(config: RankerConfig, layout: Layout, columns: Mapping[str, Columns]) -> TableStatistics:
    """Count values and rows in use.

    Args:
        config: Of the table.
        layout: The features.
        columns: Training columns of the sides `request`, `item`, `moment`.
    """
    used = np.zeros(config.rows, dtype=bool)
    vocabularies, lookups = {}, 0
    for name in ("request", "item", "moment"):
        side: Side = getattr(layout, name)
        for feature in side.ids:
            if feature.vocabulary is None:
                values = np.unique(columns[name].ids[feature.name].hashes)
                used[feature.rows(values, config.rows).reshape(-1)] = True
                vocabularies[feature.name] = len(values)
                lookups += len(values) * feature.probes
    return TableStatistics(
        rows=config.rows,
        dimensions=config.dimensions,
        vocabularies=vocabularies,
        lookups=lookups,
        used_rows=int(used.sum()),
        exact_rows=layout.exact_rows,
    )
