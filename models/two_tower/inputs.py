"""Requests and catalogue items as what the towers read: bags of table rows and standardised numbers.

Training, batch recommendation and the service build a tower's inputs here. Legend: `R` rows, `N` items, `B` requests,
`H` history entries of all requests, `n` numbers of a tower.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save
from torch import Tensor

from features.columns import Columns
from features.schemas import POSITIVE_CODES
from kernels.jagged import concat_ranges, offsets_from_lengths
from models.inputs.requests import request_columns
from models.recommend.interface import RequestBatch
from models.two_tower.bags import Bag, IntArray, concatenated
from models.two_tower.schema import HISTORY_LENGTH, RECENCY, Block, Schema

FloatArray = npt.NDArray[np.float32]
NUMBERS = "numbers"


@dataclasses.dataclass(frozen=True)
class TowerTensors:
    """`TowerInputs` as tensors."""

    bags: dict[str, tuple[Tensor, Tensor]]
    numbers: Tensor

    def to(self, device: torch.device) -> TowerTensors:
        """Return the same on a device."""
        bags = {name: (values.to(device), offsets.to(device)) for name, (values, offsets) in self.bags.items()}
        return TowerTensors(bags, self.numbers.to(device))


@dataclasses.dataclass(frozen=True)
class TowerInputs:
    """What one tower reads of `R` rows.

    Attributes:
        bags: By the name of the lookup (`Block.bag`).
        numbers: float32 `[R, n]`, nan where absent, in order of the blocks that are numbers.
    """

    bags: Mapping[str, Bag]
    numbers: FloatArray

    def take(self, rows: IntArray) -> TowerInputs:
        """Return these rows, in their order."""
        return TowerInputs({name: bag.take(rows) for name, bag in self.bags.items()}, self.numbers[rows])

    def tensors(self) -> TowerTensors:
        """Return the same as tensors."""
        bags = {name: (torch.from_numpy(bag.values), torch.from_numpy(bag.offsets)) for name, bag in self.bags.items()}
        return TowerTensors(bags, torch.from_numpy(self.numbers))


def stacked(parts: Sequence[TowerInputs]) -> TowerInputs:
    """Return the rows of all parts, one after the other."""
    bags = {name: concatenated([part.bags[name] for part in parts]) for name in parts[0].bags}
    return TowerInputs(bags, np.concatenate([part.numbers for part in parts]))


class ItemRows:
    """All items' inputs of the item tower, looked up once.

    Args:
        schema: Features and vocabularies.
        inputs: Those of the items, in their order.
    """

    def __init__(self, schema: Schema, inputs: TowerInputs) -> None:
        self.schema, self.inputs, self.rows = schema, inputs, len(inputs.numbers)
        self.by_column = {block.column: inputs.bags[block.bag] for block in schema.item if block.bag}

    @classmethod
    def of(cls, schema: Schema, columns: Columns) -> ItemRows:
        """Look up the values of `N` rows of `models.inputs.item_columns`; a column that lacks is absent everywhere."""
        bags = {block.bag: _bag(schema, block, columns) for block in schema.item if block.bag}
        return cls(schema, TowerInputs(bags, _numbers(schema, schema.item, columns)))

    def with_new_items(self, columns: Columns) -> ItemRows:
        """Return these rows and, behind them, those of further items; these stay as they are."""
        return ItemRows(self.schema, stacked([self.inputs, ItemRows.of(self.schema, columns).inputs]))

    def to_bytes(self) -> bytes:
        """Serialise in the safetensors format."""
        arrays: dict[str, npt.NDArray[np.generic]] = {NUMBERS: self.inputs.numbers}
        for name, bag in self.inputs.bags.items():
            arrays |= {f"{name}/values": bag.values, f"{name}/offsets": bag.offsets}
        return save(arrays)

    @classmethod
    def load(cls, schema: Schema, path: Path) -> ItemRows:
        """Read a file that holds what `to_bytes` returned, with the same schema."""
        arrays = load_file(path)
        names = [block.bag for block in schema.item if block.bag]
        bags = {name: Bag(arrays[f"{name}/values"], arrays[f"{name}/offsets"]) for name in names}
        return cls(schema, TowerInputs(bags, arrays[NUMBERS]))

    def take(self, items: IntArray) -> TowerInputs:
        """Return the inputs of these items."""
        return self.inputs.take(items)

    def views(
        self,
        items: IntArray,
        hidden: npt.NDArray[np.bool_],
        dropout: float,
        rng: np.random.Generator,
    ) -> TowerInputs:
        """Return the inputs of these items without what a view hides.

        Args:
            items: Item numbers.
            hidden: For each block of `schema.item` whether all of its values are hidden.
            dropout: Probability with which each single value of a many-valued feature is.
            rng: Draws what is dropped.
        """
        bags, numbers_Rn = {}, self.inputs.numbers[items]
        number = 0
        for block, is_hidden in zip(self.schema.item, hidden, strict=True):
            if not block.bag:
                numbers_Rn[:, number] = np.nan if is_hidden else numbers_Rn[:, number]
                number += 1
            elif is_hidden:
                bags[block.bag] = Bag.empty(len(items))
            else:
                bag = self.inputs.bags[block.bag].take(items)
                many_valued = len(bag.values) and np.diff(bag.offsets).max() > 1
                kept = rng.random(len(bag.values)) >= dropout if many_valued else np.ones(len(bag.values), bool)
                bags[block.bag] = bag.kept(kept)
        return TowerInputs(bags, numbers_Rn)


class UserRows:
    """The inputs of the user tower for a set of requests; bags of the history are made when they are asked for.

    Args:
        schema: Features and vocabularies.
        requests: `B` requests.
        items: Inputs of the items that histories speak of.
        item_rows: Row of `items` of each catalogue number, -1 where there is none. None: they are the same.
    """

    def __init__(
        self, schema: Schema, requests: RequestBatch, items: ItemRows, item_rows: IntArray | None = None
    ) -> None:
        self.schema, self.items = schema, items
        history_H, _, self.offsets = positive_history(requests)
        if item_rows is not None:
            rows_H = item_rows[history_H]
            known = Bag(rows_H, self.offsets).kept(rows_H >= 0)
            history_H, self.offsets = known.values, known.offsets
        self.history_H = history_H
        columns = tower_columns(requests)
        own = [block for block in schema.user if not block.window]
        bags = {block.bag: _bag(schema, block, columns) for block in own if block.bag}
        self.own = TowerInputs(bags, _numbers(schema, own, columns))

    def take(self, requests: IntArray) -> TowerInputs:
        """Return the inputs of these requests."""
        own = self.own.take(requests)
        bags = dict(own.bags)
        ends = self.offsets[requests + 1]
        windows: dict[int, tuple[IntArray, IntArray]] = {}
        for block in self.schema.user:
            if not block.window:
                continue
            if block.window not in windows:
                starts = np.maximum(ends - block.window, self.offsets[requests])
                entries = concat_ranges(starts, ends - starts)
                windows[block.window] = self.history_H[entries], offsets_from_lengths(ends - starts)
            bags[block.bag] = self.items.by_column[block.column].merged(*windows[block.window])
        return TowerInputs(bags, own.numbers)


def positive_history(requests: RequestBatch) -> tuple[IntArray, IntArray, IntArray]:
    """Return items, times and offsets of the history without dislikes."""
    kept = np.isin(requests.history_events, POSITIVE_CODES)
    offsets = offsets_from_lengths(kept.astype(np.int64))[requests.history_offsets]
    return requests.history_items[kept], requests.history_times[kept], offsets


def tower_columns(requests: RequestBatch) -> Columns:
    """Return `request_columns` and the numbers `recency` and `history_length`, both as log(1 + x), time in seconds."""
    _, times_H, offsets = positive_history(requests)
    lengths_B = np.diff(offsets)
    recency_B = np.full(len(requests), np.nan)
    has_history = lengths_B > 0
    newest_ms = times_H[offsets[1:][has_history] - 1]
    recency_B[has_history] = np.log1p(np.maximum(requests.times_B[has_history] - newest_ms, 0) / 1000)
    numbers = {
        RECENCY: recency_B.astype(np.float32),
        HISTORY_LENGTH: np.log1p(lengths_B).astype(np.float32),
    }
    return request_columns(requests).with_columns(Columns(rows=len(requests), numbers=numbers))


def _bag(schema: Schema, block: Block, columns: Columns) -> Bag:
    column = columns.ids.get(block.column)
    return Bag.empty(columns.rows) if column is None else schema.bag_of(block, column)


def _numbers(schema: Schema, blocks: Sequence[Block], columns: Columns) -> FloatArray:
    absent = np.full(columns.rows, np.nan, np.float32)
    found = [
        schema.number_of(block.column, columns.numbers.get(block.column, absent)) for block in blocks if not block.bag
    ]
    return np.stack(found, axis=1) if found else np.zeros((columns.rows, 0), np.float32)
