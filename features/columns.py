"""Columns of features: jagged categorical values as 64-bit hashes, and numbers, of any set of rows.

Rows are requests, catalogue items or (request, item) pairs; whoever holds a `Columns` says which. A value's hash is
`kernels.hashing.hash_strings` of its text: models turn hashes into table rows, and need no vocabulary of all values.
Legend: `R` rows, `V` values of one column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kernels.hashing import hash_strings
from kernels.jagged import concat_ranges, offsets_from_lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdColumn:
    """Categorical values per row, none, one or many.

    ::

        hashes  [ h(red) h(big) | h(red) | ]
        offsets [ 0             , 2      , 3, 3 ]     row r owns entries offsets[r]:offsets[r + 1]

    Attributes:
        hashes: `V` hashes, uint64.
        offsets: `R + 1` offsets, int64.
        weights: `V` weights, float32, or None where every value counts 1.
    """

    hashes: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.hashes):
            raise ValueError(
                f"offsets: expected to run from 0 to {len(self.hashes)} values, got {self.offsets[[0, -1]]}"
            )
        if self.weights is not None and len(self.weights) != len(self.hashes):
            raise ValueError(f"weights: expected one per value, {len(self.hashes)}, got {len(self.weights)}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of_strings(cls, values: pa.Array | pa.ChunkedArray) -> IdColumn:
        """Hash a string column (null: no value) or a list<string> column (null members are left out).

        Example:
            >>> IdColumn.of_strings(pa.array(["red", None, "red"])).offsets.tolist()
            [0, 1, 1, 2]
        """
        column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        if not pa.types.is_list(column.type):
            present = column.is_valid()
            lengths = np.asarray(present).astype(np.int64)
            return cls(hashes=hash_strings(column.drop_null()), offsets=offsets_from_lengths(lengths))
        flat, parents = pc.list_flatten(column), np.asarray(pc.list_parent_indices(column), dtype=np.int64)
        present = np.asarray(flat.is_valid())
        lengths = np.bincount(parents[present], minlength=len(column))
        return cls(hashes=hash_strings(flat.drop_null()), offsets=offsets_from_lengths(lengths))

    def take(self, rows: npt.NDArray[np.integer]) -> IdColumn:
        """Return the values of these rows, in their order; a negative row has no values."""
        present = rows >= 0
        held = np.where(present, rows, 0)
        lengths = np.where(present, np.diff(self.offsets)[held], 0) if len(self) else np.zeros(len(rows), np.int64)
        starts = self.offsets[held] if len(self) else lengths
        index = concat_ranges(starts, lengths)
        return IdColumn(
            hashes=self.hashes[index],
            offsets=offsets_from_lengths(lengths),
            weights=None if self.weights is None else self.weights[index],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Named columns of the same rows.

    Attributes:
        rows: Number of rows `R`.
        ids: Categorical columns by name.
        numbers: float32 `[R]` by name, nan where a row has no value.
    """

    rows: int
    ids: Mapping[str, IdColumn] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.ids.items()}
        lengths |= {name: len(values) for name, values in self.numbers.items()}
        wrong = {name: length for name, length in lengths.items() if length != self.rows}
        if wrong or set(self.ids) & set(self.numbers):
            raise ValueError(
                f"columns: expected distinct names and {self.rows} rows each, got {wrong or 'equal names'}"
                f"{sorted(set(self.ids) & set(self.numbers)) or ''}"
            )

    def take(self, rows: npt.NDArray[np.integer]) -> Columns:
        """Return these rows, in their order; a negative row has neither values nor numbers."""
        present = rows >= 0
        held = np.where(present, rows, 0)
        return Columns(
            rows=len(rows),
            ids={name: column.take(rows) for name, column in self.ids.items()},
            numbers={
                name: np.where(present, values[held] if len(values) else np.nan, np.nan).astype(np.float32)
                for name, values in self.numbers.items()
            },
        )

    def with_columns(self, other: Columns) -> Columns:
        """Return these columns and those of `other`.

        Raises:
            ValueError: The numbers of rows differ, or a name occurs in both.
        """
        common = sorted(({*self.ids} | {*self.numbers}) & ({*other.ids} | {*other.numbers}))
        if common or other.rows != self.rows:
            raise ValueError(
                f"columns: expected {self.rows} rows and other names, got {other.rows} rows and again "
                f"{', '.join(common) or 'none'}"
            )
        return Columns(rows=self.rows, ids={**self.ids, **other.ids}, numbers={**self.numbers, **other.numbers})


def stacked(parts: Sequence[Columns]) -> Columns:
    """Return the rows of all parts, one after the other; a column that a part lacks has no values in its rows.

    Example:
        >>> red = Columns(rows=1, ids={"colour": IdColumn.of_strings(pa.array(["red"]))})
        >>> both = stacked([red, Columns(rows=1, numbers={"price": np.array([2.0], np.float32)})])
        >>> both.ids["colour"].offsets.tolist(), both.numbers["price"].tolist()
        ([0, 1, 1], [nan, 2.0])
    """
    ids = {name: None for part in parts for name in part.ids}
    numbers = {name: None for part in parts for name in part.numbers}
    return Columns(
        rows=sum(part.rows for part in parts),
        ids={name: stacked_ids([_ids_of(part, name) for part in parts]) for name in ids},
        numbers={
            name: np.concatenate([part.numbers.get(name, np.full(part.rows, np.nan, np.float32)) for part in parts])
            for name in numbers
        },
    )


def _ids_of(part: Columns, name: str) -> IdColumn:
    absent = IdColumn(hashes=np.zeros(0, np.uint64), offsets=np.zeros(part.rows + 1, np.int64))
    return part.ids.get(name, absent)


def stacked_ids(columns: Sequence[IdColumn]) -> IdColumn:
    """Return the rows of at least one column, one after the other."""
    weights = None
    if any(column.weights is not None for column in columns):
        weights = np.concatenate(
            [
                np.ones(len(column.hashes), np.float32) if column.weights is None else column.weights
                for column in columns
            ]
        )
    return IdColumn(
        hashes=np.concatenate([column.hashes for column in columns]),
        offsets=offsets_from_lengths(np.concatenate([np.diff(column.offsets) for column in columns])),
        weights=weights,
    )
