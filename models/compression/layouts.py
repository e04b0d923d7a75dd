"""Five ways to give the values of categorical fields rows of one table of a given size.

- `collisionless`: a row per value.
- `per_feature`: every field has rows of its own in proportion to its vocabulary; a value's row is a hash.
- `multiplexed`: all fields share all rows; a value's row is a hash salted by the field's name (arXiv 2305.12102).
- `multi_probe`: the same with `probes` hashes per value; rows are narrower by that factor and concatenated.
- `quotient_remainder`: every field has rows of its own as in `per_feature`, cut into `m` remainder and `q` quotient
  rows; value number `i` is the elementwise product of rows `i mod m` and `i div m mod q` (arXiv 1909.02107).

Fields of few values have a row per value in all of them. With a row per value, row 0 of a field is for values that
training never saw; a hash needs no such row. All bytes are counted.

Legend: `E` examples, `F` fields, `K` lookups per field, `V` values of a field.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kernels.hashing import HashArray
from kernels.multiplex import multiplex_rows
from models.compression.config import COLLISIONLESS, METHODS, MULTI_PROBE, PER_FEATURE, QUOTIENT_REMAINDER

Ints = npt.NDArray[np.int64]

FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One categorical field."""

    name: str
    values_V: HashArray
    """Distinct hashes of the values seen in training, sorted."""

    def numbers(self, hashes_E: HashArray) -> Ints:
        """Return 1 to `V` for known values, 0 for others."""
        place_E = np.searchsorted(self.values_V, hashes_E).clip(max=len(self.values_V) - 1)
        return np.where(self.values_V[place_E] == hashes_E, place_E + 1, 0)


class Lookup(Protocol):
    """The rows of one field's values."""

    def rows(self, hashes_E: HashArray) -> Ints:
        """Return `[E, K]` rows of the table."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
    """`pieces` consecutive rows per value, and as many for all unknown values."""

    field: Field
    start: int
    pieces: int

    def rows(self, hashes_E: HashArray) -> Ints:
        """Return `[E, pieces]` rows."""
        return self.start + self.field.numbers(hashes_E)[:, None] * self.pieces + np.arange(self.pieces)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hashed:
    """One row per probe out of `size` rows."""

    name: str
    start: int
    size: int
    probes: int = 1

    def rows(self, hashes_E: HashArray) -> Ints:
        """Return `[E, probes]` rows."""
        probes = [multiplex_rows(self.name, hashes_E, self.size, probe) for probe in range(self.probes)]
        return self.start + np.stack(probes, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuotientRemainder:
    """One of `remainders` rows and one of `quotients` rows."""

    field: Field
    start: int
    remainders: int
    quotient_start: int
    quotients: int

    def rows(self, hashes_E: HashArray) -> Ints:
        """Return `[E, 2]` rows, that of the remainder first."""
        number_E = self.field.numbers(hashes_E)
        quotient_E = number_E // self.remainders % self.quotients
        return np.stack([self.start + number_E % self.remainders, self.quotient_start + quotient_E], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One table and where each field's values are in it."""

    width: int
    """Of a row, floats."""
    rows: int
    lookups: Mapping[str, Lookup]
    """By field, in the fields' order."""
    product: bool = False
    """Whether a value's two rows are multiplied; else its rows are concatenated."""
    first_factor: int
    """Rows from here on are factors and start around one, not around zero."""

    @property
    def bytes(self) -> int:
        """Bytes of the whole table in float32."""
        return self.rows * self.width * FLOAT_BYTES

    def place(self, columns: Mapping[str, HashArray]) -> Ints:
        """Return the rows of examples' values, `[E, F, K]`; a product's missing second row is row `rows`: ones."""
        placed = [lookup.rows(columns[name]) for name, lookup in self.lookups.items()]
        if self.product:
            placed = [np.pad(rows, ((0, 0), (0, 2 - rows.shape[1])), constant_values=self.rows) for rows in placed]
        return np.stack(placed, axis=1)


def collisionless_bytes(fields: Sequence[Field], width: int) -> int:
    """Return the bytes of a row per value and one for unknown values of each field."""
    return sum(len(field.values_V) + 1 for field in fields) * width * FLOAT_BYTES


def build_layout(
    method: str, fields: Sequence[Field], *, width: int, budget_bytes: int, exact_values: int, probes: int
) -> Layout:
    """Lay a table out.

    Args:
        method: One of `METHODS`.
        fields: The fields in the order of the network's inputs.
        width: Floats of a field's embedding.
        budget_bytes: Most bytes of the table.
        exact_values: Fields with at most so many values have a row per value.
        probes: Lookups per value of `multi_probe`; a divisor of `width`.

    Raises:
        ValueError: The method is unknown, the width no multiple of the probes, or the budget too small.

    Example:
        >>> item = Field(name="item", values_V=np.arange(1000, dtype=np.uint64))
        >>> build_layout("multiplexed", [item], width=4, budget_bytes=1600, exact_values=8, probes=2).rows
        100
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    if width % probes:
        raise ValueError(f"probes: expected a divisor of the width {width}, got {probes}")
    pieces = probes if method == MULTI_PROBE else 1
    tiny = [field for field in fields if method == COLLISIONLESS or len(field.values_V) <= exact_values]
    large = [field for field in fields if method != COLLISIONLESS and len(field.values_V) > exact_values]
    sizes = [(len(field.values_V) + 1) * pieces for field in tiny]
    lookups: dict[str, Lookup] = {
        field.name: Exact(field=field, start=start, pieces=pieces)
        for field, start in zip(tiny, itertools.accumulate(sizes, initial=0), strict=False)
    }
    used = sum(sizes)
    row_bytes = width // pieces * FLOAT_BYTES
    least = used + _least_rows(method, len(large))
    if budget_bytes < least * row_bytes:
        raise ValueError(
            f"{method}: expected a budget of at least {least * row_bytes} bytes, got {budget_bytes}; "
            "give it more or lower exact_values"
        )
    rows = budget_bytes // row_bytes if large else used
    hashed, first_factor = _large(method, large, used, rows, pieces) if large else ({}, rows)
    lookups |= hashed
    return Layout(
        width=width // pieces,
        rows=rows,
        lookups={field.name: lookups[field.name] for field in fields},
        product=method == QUOTIENT_REMAINDER,
        first_factor=first_factor,
    )


def _large(method: str, fields: Sequence[Field], start: int, stop: int, probes: int) -> tuple[dict[str, Lookup], int]:
    """Give the fields of many values the rows from `start` to `stop`; return the first row of factors, too."""
    if method == QUOTIENT_REMAINDER:
        return _quotients(fields, start, stop - start)
    if method == PER_FEATURE:
        return _separate(fields, start, stop - start), stop
    size = stop - start
    return {field.name: Hashed(name=field.name, start=start, size=size, probes=probes) for field in fields}, stop


def _least_rows(method: str, fields: int) -> int:
    each = {COLLISIONLESS: 0, PER_FEATURE: 1, QUOTIENT_REMAINDER: 2}
    return each[method] * fields if method in each else min(fields, 1)


def _separate(fields: Sequence[Field], start: int, rows: int) -> dict[str, Lookup]:
    sizes = _proportional(fields, rows, least=1)
    starts = itertools.accumulate(sizes, initial=start)
    return {
        field.name: Hashed(name=field.name, start=begin, size=size)
        for field, begin, size in zip(fields, starts, sizes, strict=False)
    }


def _quotients(fields: Sequence[Field], start: int, rows: int) -> tuple[dict[str, Lookup], int]:
    """Return the lookups and the first quotient row; all remainder rows lie before all quotient rows."""
    sizes = _proportional(fields, rows, least=2)
    cuts = [_remainders(len(field.values_V) + 1, size) for field, size in zip(fields, sizes, strict=True)]
    quotients = [size - cut for size, cut in zip(sizes, cuts, strict=True)]
    first_factor = start + sum(cuts)
    starts = itertools.accumulate(cuts, initial=start)
    quotient_starts = itertools.accumulate(quotients, initial=first_factor)
    lookups: dict[str, Lookup] = {
        field.name: QuotientRemainder(
            field=field, start=begin, remainders=cut, quotient_start=quotient_begin, quotients=quotient
        )
        for field, begin, cut, quotient_begin, quotient in zip(
            fields, starts, cuts, quotient_starts, quotients, strict=False
        )
    }
    return lookups, first_factor


def _remainders(numbers: int, rows: int) -> int:
    """Return the most remainder rows that leave every number a pair of its own; half of the rows if none do."""
    remainder = np.arange(1, rows)
    enough = remainder * (rows - remainder) >= numbers
    return int(remainder[enough].max()) if enough.any() else (rows + 1) // 2


def _proportional(fields: Sequence[Field], rows: int, least: int) -> list[int]:
    """Divide rows in proportion to the vocabularies, at least `least` each; what is missing the largest gives."""
    share = np.array([len(field.values_V) for field in fields], dtype=np.float64)
    ends = np.floor(np.cumsum(share) / share.sum() * rows + 0.5).astype(np.int64)
    sizes = np.maximum(np.diff(ends, prepend=0), least)
    while (excess := int(sizes.sum()) - rows) > 0:
        sizes[sizes.argmax()] -= min(excess, int(sizes.max()) - least)
    return sizes.tolist()
