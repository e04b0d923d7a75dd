"""The columns of a side as rows of ids and numbers, laid out as `models.ranker.layout` says.

Legend: `R` rows of a side, `V` values of all rows, `X` numbers.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from features.columns import Columns, IdColumn
from kernels.jagged import concat_ranges, offsets_from_lengths, row_numbers
from models.ranker.layout import FARTHEST, Side, squash

_SMALLEST_TOTAL = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """The rows of a side, ready to be looked up.

    Attributes:
        ids, slots, weights: `V` ids, the slot of each in its row, and its share of the slot's mean.
        offsets: `R + 1` offsets.
        numbers_RX: float32.
    """

    ids: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    numbers_RX: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: npt.NDArray[np.integer]) -> EncodedRows:
        """Return these rows, in their order."""
        lengths = np.diff(self.offsets)[rows]
        index = concat_ranges(self.offsets[rows], lengths)
        return EncodedRows(
            ids=self.ids[index],
            slots=self.slots[index],
            weights=self.weights[index],
            offsets=offsets_from_lengths(lengths),
            numbers_RX=self.numbers_RX[rows],
        )


def encode(side: Side, columns: Columns, shared_rows: int) -> EncodedRows:
    """Look the features of a side up in columns; a column that is not there has no values.

    Args:
        side: The features.
        columns: `R` rows.
        shared_rows: Rows of the shared table.
    """
    rows, ids, slots, weights, slot = [], [], [], [], 0
    for feature in side.ids:
        column = columns.ids.get(feature.name)
        if column is not None and len(column.hashes):
            row_V = row_numbers(np.diff(column.offsets))
            rows.append(np.repeat(row_V, feature.probes))
            ids.append(feature.rows(column.hashes, shared_rows).reshape(-1))
            slots.append(np.tile(np.arange(slot, slot + feature.probes), len(row_V)))
            weights.append(np.repeat(_shares(column, row_V), feature.probes))
        slot += feature.probes
    nothing = np.zeros(0, np.int64)
    row_V = np.concatenate([nothing, *rows])
    order = np.argsort(row_V, kind="stable")
    return EncodedRows(
        ids=np.concatenate([nothing, *ids])[order],
        slots=np.concatenate([nothing, *slots])[order],
        weights=np.concatenate([np.zeros(0, np.float32), *weights])[order],
        offsets=offsets_from_lengths(np.bincount(row_V, minlength=columns.rows)),
        numbers_RX=_numbers(side, columns),
    )


def _shares(column: IdColumn, row_V: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return each value's share of its row: weights divided by the sum of their sizes."""
    weight_V = np.ones(len(column.hashes), np.float32) if column.weights is None else column.weights
    total_R = np.bincount(row_V, weights=np.abs(weight_V), minlength=len(column))
    return (weight_V / np.maximum(total_R, _SMALLEST_TOTAL)[row_V]).astype(np.float32)


def _numbers(side: Side, columns: Columns) -> npt.NDArray[np.float32]:
    numbers_RX = np.zeros((columns.rows, side.number_width), dtype=np.float32)
    place = 0
    for number in side.numbers:
        values_R = columns.numbers.get(number.name)
        there_R = np.zeros(columns.rows, bool) if values_R is None else ~np.isnan(values_R)
        if values_R is not None:
            standard_R = (squash(values_R) - np.float32(number.mean)) / np.float32(number.scale)
            numbers_RX[:, place] = np.where(there_R, np.clip(standard_R, -FARTHEST, FARTHEST), 0)
        if number.missing:
            numbers_RX[:, place + 1] = ~there_R
        place += 1 + number.missing
    return numbers_RX
