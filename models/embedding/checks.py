"""Checks of ids before a lookup: FBGEMM answers ids out of range with zeros, or with the vector of another row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.embedding.spec import BagSpec, TableSpec

Bag = tuple[Tensor, Tensor]
"""Ids int64 `[v]` and offsets int64 `[R + 1]`: row r holds `ids[offsets[r]:offsets[r + 1]]`."""


def check_ids(ids: Mapping[str, Tensor], specs: Sequence[TableSpec]) -> None:
    """Check that `ids` names each table once and holds int64 vectors within range.

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
        _check_int64(f"ids of table {spec.name!r}", ids[spec.name], "[n]")
        if _out_of_range(ids[spec.name], None, spec.rows):
            largest = int(ids[spec.name].max())
            raise IndexError(f"table {spec.name!r}: id {largest} is out of range, the table has {spec.rows} rows")


def check_values(values: Mapping[str, Bag], tables: Sequence[TableSpec], bags: Sequence[BagSpec]) -> None:
    """Check that `values` names each bag once and holds ids within range and offsets that fit them.

    Raises:
        ValueError: Bags are missing or unknown, a tensor is not an int64 vector, or offsets do not cut up the ids.
        IndexError: An id is negative or not below its table's number of rows.
    """
    names = {bag.name for bag in bags}
    if values.keys() != names:
        raise ValueError(
            f"bags: expected one entry for each of {sorted(names)}; missing {sorted(names - values.keys())}, "
            f"unknown {sorted(values.keys() - names)}"
        )
    rows = {table.name: table.rows for table in tables}
    for bag in bags:
        ids_v, offsets = values[bag.name]
        _check_int64(f"ids of bag {bag.name!r}", ids_v, "[v]")
        _check_int64(f"offsets of bag {bag.name!r}", offsets, "[R + 1]")
        _check_offsets(bag.name, ids_v, offsets)
        if _out_of_range(ids_v, 0, rows[bag.table]):
            wrong = int(ids_v[(ids_v < 0) | (ids_v >= rows[bag.table])][0])
            raise IndexError(
                f"bag {bag.name!r} of table {bag.table!r}: expected 0 <= id < {rows[bag.table]}, got {wrong}; "
                "leave absent ids out of the bag"
            )


def _check_int64(what: str, values: Tensor, shape: str) -> None:
    if values.dtype != torch.int64 or values.ndim != 1:
        raise ValueError(f"{what}: expected int64 of shape {shape}, got {values.dtype} {tuple(values.shape)}")


def _check_offsets(name: str, ids_v: Tensor, offsets: Tensor) -> None:
    """Check what a lookup would read beyond; on CUDA the length alone, because looking at values makes it wait."""
    fits = len(offsets) > 0 and (
        offsets.is_cuda
        or (int(offsets[0]) == 0 and int(offsets[-1]) == len(ids_v) and not bool((offsets.diff() < 0).any()))
    )
    if not fits:
        raise ValueError(
            f"offsets of bag {name!r}: expected numbers that rise from 0 to {len(ids_v)}, the number of ids, got "
            f"{offsets.tolist() if len(offsets) < 10 else [*offsets[:3].tolist(), '...', *offsets[-3:].tolist()]}"
        )


def _out_of_range(ids_v: Tensor, lowest: int | None, rows: int) -> bool:
    """Whether an id is not below `rows`, or below `lowest`; on CUDA the device asserts it and nothing waits."""
    if not ids_v.numel():
        return False
    least, most = torch.aminmax(ids_v)
    if ids_v.is_cuda:
        torch._assert_async((most < rows) & (least >= lowest) if lowest is not None else most < rows)
        return False
    return int(most) >= rows or (lowest is not None and int(least) < lowest)
