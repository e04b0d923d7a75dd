"""Which values of features differ, and by how much.

The stream and the batch pipelines fold whole numbers and finish them with the same code, so that their values are equal
bit for bit (`tests/features/online` proves it). `TOLERANCE` is for the rounding of another processor or library alone.
Legend: `R` rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.columns import Columns, IdColumn
from features.definitions import Feature
from features.folds import NUMBER, WEIGHTS
from kernels.jagged import row_numbers, run_starts

TOLERANCE = 1e-6
"""Of numbers relative to the larger one, of numbers below 1 and of weights absolute."""

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def differences(feature: Feature, served: Columns, batch: Columns) -> Numbers:
    """Return how much the values of a feature differ, 0 where they do not.

    Args:
        feature: Which.
        served: `R` rows.
        batch: `R` rows.

    Returns:
        `[R]`: of numbers `|a - b|`, infinite where one of them is unknown; of ids the number of ids that are not at the
        same place of both lists; of weights the largest `|a - b|` of any key.
    """
    if feature.kind == NUMBER:
        return _of_numbers(served.numbers[feature.name], batch.numbers[feature.name])
    a, b = served.ids[feature.name], batch.ids[feature.name]
    if feature.kind == WEIGHTS:
        rows, changes = _by_key(a, b, _weights(a), _weights(b))
        large = np.zeros(len(a))
        np.maximum.at(large, rows, np.abs(changes))
        return np.where(large <= TOLERANCE, 0.0, large)
    rows, changes = _by_key(a, b, _places(a), _places(b))
    return np.bincount(rows[changes != 0], minlength=len(a)).astype(np.float64)


def defaults(feature: Feature, values: Columns) -> Mask:
    """Return which rows hold nothing but what an unknown user or item has."""
    if feature.kind != NUMBER:
        return np.diff(values.ids[feature.name].offsets) == 0
    numbers = values.numbers[feature.name]
    return np.isnan(numbers) | (numbers == np.float32(feature.default))


def _of_numbers(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Numbers:
    unknown_a, unknown_b = np.isnan(a), np.isnan(b)
    a64, b64 = np.nan_to_num(a.astype(np.float64)), np.nan_to_num(b.astype(np.float64))
    found = np.abs(a64 - b64)
    found[found <= TOLERANCE * np.maximum(1.0, np.maximum(np.abs(a64), np.abs(b64)))] = 0.0
    return np.where(unknown_a == unknown_b, np.where(unknown_a, 0.0, found), np.inf)


def _by_key(a: IdColumn, b: IdColumn, values_a: Numbers, values_b: Numbers) -> tuple[npt.NDArray[np.int64], Numbers]:
    """Return row and `a - b` of every key of every row; a key that a row of one side lacks is 0 there."""
    rows = np.concatenate([row_numbers(np.diff(column.offsets)) for column in (a, b)]).astype(np.int64)
    keys = np.concatenate([a.hashes, b.hashes])
    values = np.concatenate([values_a, -values_b])
    order = np.lexsort((keys, rows))
    if not len(order):
        return rows, values
    starts = run_starts(rows[order], keys[order])
    return rows[order][starts], np.add.reduceat(values[order], starts)


def _weights(column: IdColumn) -> Numbers:
    assert column.weights is not None
    return column.weights.astype(np.float64)


def _places(column: IdColumn) -> Numbers:
    """Return the place of each id in its list, from 1."""
    lengths = np.diff(column.offsets)
    return (np.arange(len(column.hashes)) - np.repeat(column.offsets[:-1], lengths) + 1).astype(np.float64)
