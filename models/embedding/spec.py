"""What embedding tables there are, and which bags of ids are looked up in them; no torch here."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

Pooling = Literal["mean", "sum"]


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """One embedding table: a `name` that is part of parameter names, its number of `rows` and of `dimensions`.

    FBGEMM reads four numbers at a time: dimensions are a multiple of 4. First weights are uniform in +-`init_scale`.

    Example:
        >>> TableSpec("item", rows=100, dimensions=8).scale, TableSpec("item", 100, 8, init_scale=0.05).scale
        (0.1, 0.05)
    """

    name: str
    rows: int
    dimensions: int
    init_scale: float | None = None
    """None: 1/sqrt(rows), as TorchRec does."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.rows < 1 or self.dimensions < 1 or self.dimensions % 4:
            raise ValueError(
                f"table: expected an identifier as name, rows >= 1 and a multiple of 4 as dimensions, got name "
                f"{self.name!r}, rows {self.rows}, dimensions {self.dimensions}"
            )
        if self.init_scale is not None and not self.init_scale > 0:
            raise ValueError(f"table {self.name!r}: expected init_scale > 0 or None, got {self.init_scale}")

    @property
    def scale(self) -> float:
        """The largest absolute value of first weights."""
        return self.init_scale if self.init_scale is not None else float(self.rows**-0.5)


@dataclasses.dataclass(frozen=True)
class BagSpec:
    """One feature: in every row of a batch a bag of ids, whose vectors in `table` are pooled to one.

    `name` is free text, as a column's. Bags that share a table share its `pooling` (FBGEMM pools by table).
    """

    name: str
    table: str
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        if not self.name or self.pooling not in get_args(Pooling):
            raise ValueError(
                f"bag: expected a name and one of {', '.join(get_args(Pooling))} as pooling, got name {self.name!r}, "
                f"pooling {self.pooling!r}"
            )


def check_specs(specs: Sequence[TableSpec]) -> tuple[TableSpec, ...]:
    """Return `specs` if they can share one collection.

    Raises:
        ValueError: There is none, two have one name, or dimensions differ (FBGEMM's unpooled lookup needs equal ones).
    """
    if not specs or _repeated([spec.name for spec in specs]) or len({spec.dimensions for spec in specs}) != 1:
        described = ", ".join(f"{spec.name} [{spec.rows}, {spec.dimensions}]" for spec in specs)
        raise ValueError(
            f"tables: expected at least one, distinct names and equal dimensions, got {described or 'none'}; "
            "put tables of other dimensions into a collection of their own"
        )
    return tuple(specs)


def check_bags(
    tables: Sequence[TableSpec], bags: Sequence[BagSpec]
) -> tuple[tuple[TableSpec, ...], tuple[BagSpec, ...]]:
    """Return `tables` and `bags` if they can form one collection; tables may differ in dimensions.

    Raises:
        ValueError: There is no bag, a name comes twice, a bag names no table or a table has no bag, or bags of one
            table are pooled in different ways. The message lists all of these.
    """
    names = [table.name for table in tables]
    mistakes = [] if bags else ["expected at least one bag, got none"]
    mistakes += [f"table {name!r} comes more than once" for name in _repeated(names)]
    mistakes += [f"bag {name!r} comes more than once" for name in _repeated([bag.name for bag in bags])]
    mistakes += [
        f"bag {bag.name!r}: expected one of the tables {', '.join(names) or '(none)'}, got {bag.table!r}"
        for bag in bags
        if bag.table not in names
    ]
    for name in dict.fromkeys(names):
        poolings = {bag.name: bag.pooling for bag in bags if bag.table == name}
        if not poolings:
            mistakes.append(f"table {name!r} has no bag; leave it out or name it in a BagSpec")
        if len(set(poolings.values())) > 1:
            mistakes.append(f"bags of table {name!r}: expected equal pooling, got {poolings}; use another table")
    if mistakes:
        raise ValueError("embedding bags:\n  " + "\n  ".join(mistakes))
    return tuple(tables), tuple(bags)


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
