"""A trained two-tower model in use: vectors of requests and items, new ones included.

Legend: `B` requests, `N` items, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from features.columns import Columns
from features.semantic_ids import Catalogue
from models.recommend.interface import RequestBatch
from models.two_tower.bags import Bag, IntArray
from models.two_tower.inputs import ItemRows, TowerInputs, TowerTensors, UserRows
from models.two_tower.schema import Block, Schema
from models.two_tower.towers import TwoTowerNet

BATCH = 4096
"""Rows encoded together; bounds memory."""


class TwoTower:
    """The towers and what they know of items.

    Args:
        net: The trained modules; they are used in evaluation mode.
        schema: Features and vocabularies they were trained with.
        item_ids: Ids of the items that histories may hold.
        items: Their inputs.
    """

    def __init__(self, net: TwoTowerNet, schema: Schema, item_ids: pa.Array, items: ItemRows) -> None:
        self.net, self.schema, self.item_ids, self.items = net, schema, item_ids, items
        self._numbered: tuple[Catalogue, IntArray] | None = None

    @property
    def width(self) -> int:
        """Width of the vectors `D`."""
        return self.net.config.hidden[-1]

    def know_items(self, item_ids: pa.Array, columns: Columns) -> None:
        """Replace the items that histories may hold, where the catalogue grew since training.

        Args:
            item_ids: Distinct ids.
            columns: `models.inputs.item_columns` of these items.
        """
        self.item_ids, self.items = item_ids, ItemRows.of(self.schema, columns)
        self._numbered = None

    def with_new_items(self, item_ids: pa.Array, columns: Columns) -> TwoTower:
        """Return these towers with further items that histories may hold; the modules are shared, this stays as it is.

        Args:
            item_ids: Distinct ids, none of them known.
            columns: `models.inputs.item_columns` of these items.
        """
        item_ids = pa.concat_arrays([self.item_ids, item_ids])
        return TwoTower(self.net, self.schema, item_ids, self.items.with_new_items(columns))

    def user_vectors(self, requests: RequestBatch, catalogue: Catalogue) -> npt.NDArray[np.float32]:
        """Return unit vectors of users at the moments of their requests, float32 `[B, D]`.

        Histories are cut to the newest `max_history` entries, as in training: their length is a feature. A user with
        fewer known history items than the model was trained on (`min_history`) has a row of zeros.

        Args:
            requests: Histories of catalogue numbers, and columns of user and moment.
            catalogue: Says which items these are; an item the model does not know is left out of the history.
        """
        requests = requests.with_newest(self.net.config.max_history)
        rows = UserRows(self.schema, requests, self.items, self._rows_of(catalogue))
        vectors_BD = self._encode(len(requests), rows.take, user=True)
        vectors_BD[np.diff(rows.offsets) < self.net.config.min_history] = 0.0
        return vectors_BD

    def item_vectors(self, columns: Columns) -> npt.NDArray[np.float32]:
        """Return unit vectors of items, float32 `[N, D]`; an item without training events has those of its features.

        Args:
            columns: `N` rows of `models.inputs.item_columns`.
        """
        return self._item_vectors(ItemRows.of(self.schema, columns))

    def known_item_vectors(self) -> npt.NDArray[np.float32]:
        """Return the unit vectors of the known items, in their order."""
        return self._item_vectors(self.items)

    def _item_vectors(self, rows: ItemRows) -> npt.NDArray[np.float32]:
        return self._encode(rows.rows, rows.take, user=False)

    def _encode(self, count: int, take: Callable[[IntArray], TowerInputs], *, user: bool) -> npt.NDArray[np.float32]:
        parts = [np.zeros((0, self.width), np.float32)]
        nothing = _no_rows(self.schema.item if user else self.schema.user)
        was_training = self.net.training
        self.net.eval()
        with torch.no_grad():
            for start in range(0, count, BATCH):
                own = take(np.arange(start, min(start + BATCH, count))).tensors()
                user_RD, item_RD = self.net.vectors(*((own, nothing) if user else (nothing, own)))
                parts.append((user_RD if user else item_RD).cpu().numpy())
        self.net.train(was_training)
        return np.concatenate(parts)

    def _rows_of(self, catalogue: Catalogue) -> IntArray:
        """Return the known item of each catalogue number, -1 where there is none; kept for the newest catalogue."""
        if self._numbered is None or self._numbered[0] is not catalogue:
            found = pc.fill_null(pc.index_in(catalogue.item_ids, value_set=self.item_ids), -1)
            self._numbered = catalogue, np.asarray(found, dtype=np.int64)
        return self._numbered[1]


def _no_rows(blocks: Sequence[Block]) -> TowerTensors:
    bags = {block.bag: Bag.empty(0) for block in blocks if block.bag}
    return TowerInputs(bags, np.zeros((0, len(blocks) - len(bags)), np.float32)).tensors()
