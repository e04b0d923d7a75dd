"""What the towers know: their features, the values each feature has a vector for, the scale of numbers.

A `Schema` is made once from the training data and stored with the weights. Legend: `V` values of a vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from features.columns import Columns, IdColumn
from models.inputs.items import ITEM_ID
from models.inputs.requests import HOUR, USER_ID, WEEKDAY
from models.two_tower.bags import Bag
from models.two_tower.config import TwoTowerConfig

RECENCY, HISTORY_LENGTH = "recency", "history_length"
MOMENT = (HOUR, WEEKDAY, RECENCY)
"""Request columns that mean nothing where times are only an order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A stretch of a tower's input: the pooled vector of a feature, or a number.

    Attributes:
        name: Of the column; history blocks are named `history<window>.<column>`.
        column: The column whose vocabulary, or scale, it uses.
        width: Number of inputs.
        bag: Name of its pooled lookup; empty for a number.
        window: Newest history items it reads; 0: it reads no history.
    """

    name: str
    column: str
    width: int
    bag: str = ""
    window: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """The features of both towers.

    Attributes:
        item, user: Blocks in the order of the towers' inputs.
        tables: Table name by column; history blocks look up in the tables of item columns.
        item_values, user_values: Column -> sorted hashes of the values that have a vector, uint64 `[V]`; a value's row
            is its place.
        scales: Number column -> mean and standard deviation of the training data.
    """

    item: tuple[Block, ...]
    user: tuple[Block, ...]
    tables: Mapping[str, str]
    item_values: Mapping[str, npt.NDArray[np.uint64]]
    user_values: Mapping[str, npt.NDArray[np.uint64]]
    scales: Mapping[str, tuple[float, float]]

    def bag_of(self, block: Block, column: IdColumn) -> Bag:
        """Return the table rows of a column; values without a vector are left out."""
        known = (self.user_values if block in self.user else self.item_values)[block.column]
        return rows_of(known, column)

    def number_of(self, column: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return standardised values within +-5; nan stays nan, what is infinite becomes nan."""
        mean, deviation = self.scales[column]
        finite = np.where(np.isfinite(values), values, np.nan)
        return np.clip((finite - mean) / deviation, -5.0, 5.0).astype(np.float32)

    def to_bytes(self) -> bytes:
        """Serialise in the safetensors format."""
        values = {f"item/{name}": hashes for name, hashes in self.item_values.items()}
        values |= {f"user/{name}": hashes for name, hashes in self.user_values.items()}
        document = {
            "item": [dataclasses.asdict(block) for block in self.item],
            "user": [dataclasses.asdict(block) for block in self.user],
            "tables": dict(self.tables),
            "scales": {name: list(scale) for name, scale in self.scales.items()},
        }
        return save(values, metadata={"schema": json.dumps(document, sort_keys=True)})

    @classmethod
    def load(cls, path: str) -> Schema:
        """Read a file that holds what `to_bytes` returned."""
        with safe_open(path, framework="numpy") as file:
            document: dict[str, Any] = json.loads(file.metadata()["schema"])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no mapping
        return cls(
            item=tuple(Block(**block) for block in document["item"]),
            user=tuple(Block(**block) for block in document["user"]),
            tables=document["tables"],
            item_values=_below("item/", values),
            user_values=_below("user/", values),
            scales={name: (scale[0], scale[1]) for name, scale in document["scales"].items()},
        )


def rows_of(known: npt.NDArray[np.uint64], column: IdColumn) -> Bag:
    """Return each value's place among the sorted `known` hashes, without the unknown ones.

    Example:
        >>> column = IdColumn(hashes=np.array([5, 6, 5], np.uint64), offsets=np.array([0, 2, 3]))
        >>> rows_of(np.array([1, 5], np.uint64), column)
        Bag(values=array([1, 1]), offsets=array([0, 1, 2]))
    """
    if not len(known):
        return Bag.empty(len(column))
    places = np.minimum(np.searchsorted(known, column.hashes), len(known) - 1)
    return Bag(places.astype(np.int64), column.offsets).kept(known[places] == column.hashes)


def make_schema(
    items: Columns,
    requests: Columns,
    trained_items: npt.NDArray[np.int64],
    config: TwoTowerConfig,
    *,
    order_only: bool = False,
) -> Schema:
    """Decide features and vocabularies from the catalogue and the training requests.

    Columns without a frequent value, or with one number only, are left out: they could tell nothing apart.

    Args:
        items: Columns of the catalogue.
        requests: Columns of the training requests, with `recency` and `history_length`.
        trained_items: Catalogue numbers with a training event.
        config: Names the features.
        order_only: Whether times are only an order.

    Raises:
        ValueError: A configured feature does not exist; the message lists those that do.
    """
    _check_names(items, requests, config)
    item_names = _item_names(items, config)
    user_names = _user_names(requests, config, order_only)
    item_values = {name: _frequent(items.ids[name], config.min_count) for name in item_names if name in items.ids}
    if ITEM_ID in item_values:
        item_values[ITEM_ID] = np.unique(items.ids[ITEM_ID].take(trained_items).hashes)
    user_values = {name: _frequent(requests.ids[name], config.min_count) for name in user_names if name in requests.ids}
    item_values, user_values = _not_empty(item_values), _not_empty(user_values)
    numbers = {name: items.numbers[name] for name in item_names if name in items.numbers}
    numbers |= {name: requests.numbers[name] for name in user_names if name in requests.numbers}
    scales = {name: scale for name, values in numbers.items() if (scale := _scale(values)) is not None}
    tables = _table_names([*item_values, *user_values])
    widths = dict.fromkeys(tables, config.feature_dimensions) | {ITEM_ID: config.item_dimensions}
    history = [
        Block(
            name=(name := f"history{window}.{column}"),
            column=column,
            width=widths[column],
            bag=f"user:{name}",
            window=window,
        )
        for window in sorted(config.history_windows)
        for column in config.history_features
        if column in item_values
    ]
    return Schema(
        item=_blocks("item", item_names, item_values, widths, scales),
        user=(*history, *_blocks("user", user_names, user_values, widths, scales)),
        tables=tables,
        item_values=item_values,
        user_values=user_values,
        scales=scales,
    )


def _blocks(
    tower: str,
    names: Iterable[str],
    values: Mapping[str, npt.NDArray[np.uint64]],
    widths: Mapping[str, int],
    scales: Mapping[str, tuple[float, float]],
) -> tuple[Block, ...]:
    blocks = [
        Block(name=name, column=name, width=widths[name], bag=f"{tower}:{name}") for name in names if name in values
    ]
    return (*blocks, *(Block(name=name, column=name, width=1) for name in names if name in scales))


def _check_names(items: Columns, requests: Columns, config: TwoTowerConfig) -> None:
    known_items, known_requests = {*items.ids, *items.numbers}, {*requests.ids, *requests.numbers}
    read = set(config.item_features) if config.item_features is not None else known_items
    mistakes = [
        f"two_tower.{option}: unknown {', '.join(unknown)}; {hint}: {', '.join(sorted(known)) or 'none'}"
        for option, names, known, hint in (
            ("item_features", config.item_features or (), known_items, "known"),
            ("user_features", config.user_features or (), known_requests, "known"),
            ("history_features", config.history_features, read & {*items.ids}, "ids among the item_features"),
        )
        if (unknown := sorted(set(names) - known))
    ]
    if mistakes:
        raise ValueError("two-tower features:\n  " + "\n  ".join(mistakes))


def _item_names(items: Columns, config: TwoTowerConfig) -> list[str]:
    return list(config.item_features) if config.item_features is not None else [*items.ids, *items.numbers]


def _user_names(requests: Columns, config: TwoTowerConfig, order_only: bool) -> list[str]:
    if config.user_features is not None:
        return list(config.user_features)
    left_out = {USER_ID, *(MOMENT if order_only else ())}
    return [name for name in (*requests.ids, *requests.numbers) if name not in left_out]


def _frequent(column: IdColumn, min_count: int) -> npt.NDArray[np.uint64]:
    values, counts = np.unique(column.hashes, return_counts=True)
    return values[counts >= min_count]


def _not_empty(values: Mapping[str, npt.NDArray[np.uint64]]) -> dict[str, npt.NDArray[np.uint64]]:
    return {name: hashes for name, hashes in values.items() if len(hashes)}


def _scale(values: npt.NDArray[np.float32]) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)].astype(np.float64)
    deviation = float(finite.std()) if len(finite) else 0.0
    return (float(finite.mean()), deviation) if deviation > 0 else None


def _table_names(columns: list[str]) -> dict[str, str]:
    """Return an identifier for each column; equal ones are numbered."""
    names: dict[str, str] = {}
    for column in columns:
        name = "".join(letter if letter.isalnum() else "_" for letter in column)
        name = name if name.isidentifier() else f"table_{name}"
        names[column] = name if name not in names.values() else f"{name}_{len(names)}"
    return names


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
