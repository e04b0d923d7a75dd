"""Reading features: of pages for training, of items at any moment, of users from their stored states.

All of them return `Columns` named as the features of `features.definitions`, in the same form whatever they were read
from, so that a model sees in training what it sees in service.
Legend: `R` rows, `N` catalogue items, `B` users.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns, IdColumn
from features.definitions import (
    ITEM,
    ITEM_FEATURES,
    PAGE_FEATURES,
    USER,
    Feature,
    feature_schemas,
    features_of,
    memories_of,
    state_layout,
)
from features.folds import DAY_MS, NUMBER, WEIGHTS
from features.point_in_time import gather_columns
from features.states import unpack_states
from features.workspace import Workspace
from kernels.jagged import IntArray, offsets_from_lengths


def page_columns(
    workspace: Workspace, page_ids: Sequence[str] | pa.Array, features: Sequence[Feature] | None = None
) -> Columns:
    """Return the user features of pages, from events strictly before each.

    Args:
        workspace: Holds the table `page_features`.
        page_ids: `R` request ids; a page that the table does not have gets defaults.
        features: Default `FEATURES`.

    Raises:
        MissingTableError: The table has not been written.
    """
    chosen = features_of(USER, features)
    table = workspace.table(PAGE_FEATURES, features)
    rows = table.read(columns=["request_id", *(feature.name for feature in chosen)])
    wanted = page_ids if isinstance(page_ids, pa.Array) else pa.array(page_ids, pa.string())
    places = pc.index_in(wanted, value_set=rows.column("request_id").combine_chunks())
    return take_or_default(from_table(rows, chosen), np.asarray(pc.fill_null(places, -1), dtype=np.int64), chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemSnapshots:
    """Item features as of the midnights on which they changed.

    Attributes:
        items: `N`, the number of catalogue items.
        keys_S: Item number and day of each snapshot in one number, increasing.
        columns: `S` rows.
        features: What the columns are.
    """

    items: int
    keys_S: IntArray
    columns: Columns
    features: tuple[Feature, ...]

    @classmethod
    def load(
        cls, workspace: Workspace, item_ids: Sequence[str] | pa.Array, features: Sequence[Feature] | None = None
    ) -> ItemSnapshots:
        """Read the snapshots of these items.

        Args:
            workspace: Holds the table `item_features`.
            item_ids: `N` ids, distinct, in catalogue order.
            features: Default `FEATURES`.

        Raises:
            MissingTableError: The table has not been written.
        """
        return cls.of_rows(workspace.table(ITEM_FEATURES, features).read(), item_ids, features)

    @classmethod
    def of_rows(
        cls, rows: pa.Table, item_ids: Sequence[str] | pa.Array, features: Sequence[Feature] | None = None
    ) -> ItemSnapshots:
        """Take them from rows of the table `item_features`; for the other arguments see `load`."""
        chosen = features_of(ITEM, features)
        wanted = item_ids if isinstance(item_ids, pa.Array) else pa.array(item_ids, pa.string())
        number = np.asarray(pc.fill_null(pc.index_in(rows.column("item_id"), value_set=wanted), -1), dtype=np.int64)
        key = _key(number, np.asarray(rows.column("as_of").cast(pa.int64()), dtype=np.int64))
        order = np.flatnonzero(number >= 0)
        order = order[np.argsort(key[order], kind="stable")]
        columns = from_table(rows.drop_columns(["item_id", "as_of"]), chosen).take(order)
        return cls(items=len(wanted), keys_S=key[order], columns=columns, features=chosen)

    def at(self, items_n: npt.NDArray[np.integer], times_n: npt.NDArray[np.integer]) -> Columns:
        """Return the features of items at moments: of the newest snapshot not later than each.

        Args:
            items_n: Item numbers; negative: no item, defaults.
            times_n: Milliseconds.
        """
        items = np.asarray(items_n, dtype=np.int64)
        found = np.searchsorted(self.keys_S, _key(items, np.asarray(times_n, dtype=np.int64)), side="right") - 1
        owner = _item_of(self.keys_S[found]) if len(self.keys_S) else np.full(len(items), -1)
        rows = np.where((found >= 0) & (items >= 0) & (owner == items), found, -1)
        return take_or_default(self.columns, rows, self.features)

    def latest(self) -> Columns:
        """Return the newest features of all `N` items."""
        items = np.arange(self.items)
        return self.at(items, np.full(self.items, _LAST_DAY * DAY_MS))


def items_without_events(items: int) -> Columns:
    """Return the item features of items of which nothing is known, the defaults, `items` rows."""
    chosen = features_of(ITEM)
    nothing = from_table(feature_schemas()[ITEM_FEATURES].empty_table(), chosen)
    return take_or_default(nothing, np.full(items, -1), chosen)


def finish_users(
    states: Sequence[bytes | None], times_B: npt.NDArray[np.integer], features: Sequence[Feature] | None = None
) -> Columns:
    """Return the user features at a moment, from packed states of the table `user_states`.

    Args:
        states: `B` states; None: a user without events.
        times_B: Milliseconds; all events in the states lie before.
        features: Default `FEATURES`.

    Raises:
        StaleStateError: A state was written for other features.
    """
    chosen = features_of(USER, features)
    memories = memories_of(chosen)
    held = unpack_states(states, [memory.columns for memory in memories], state_layout(features))
    state_of = dict(zip(memories, held, strict=True))
    now = np.asarray(times_B, dtype=np.int64)
    parts = {feature.name: [feature.fold.finish(state_of[feature.fold.memory], len(states), now)] for feature in chosen}
    return gather_columns(chosen, parts, len(states))


def to_arrays(columns: Columns, features: Sequence[Feature]) -> list[pa.Array]:
    """Return the columns as Arrow arrays in the types of `feature_schemas`, in the order of the features."""
    arrays = []
    for feature in features:
        if feature.kind == NUMBER:
            values = columns.numbers[feature.name]
            arrays.append(pa.array(values, pa.float32(), mask=np.isnan(values)))
            continue
        column = columns.ids[feature.name]
        values = pa.array(column.hashes)
        if feature.kind == WEIGHTS:
            values = pa.StructArray.from_arrays([values, pa.array(column.weights)], names=["key", "weight"])
        arrays.append(pa.ListArray.from_arrays(pa.array(column.offsets.astype(np.int32)), values))
    return arrays


def from_table(rows: pa.Table, features: Sequence[Feature]) -> Columns:
    """Return columns of `rows` as `Columns`; the inverse of `to_arrays`."""
    ids, numbers = {}, {}
    for feature in features:
        column = rows.column(feature.name)
        column = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
        if feature.kind == NUMBER:
            values = column.to_numpy(zero_copy_only=False).astype(np.float32)
            numbers[feature.name] = np.where(np.isnan(values), np.float32(feature.default), values)
            continue
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype=np.int64)
        flat = pc.list_flatten(column)
        weighted = feature.kind == WEIGHTS
        ids[feature.name] = IdColumn(
            hashes=np.asarray(flat.field("key") if weighted else flat),
            offsets=offsets_from_lengths(lengths),
            weights=np.asarray(flat.field("weight")) if weighted else None,
        )
    return Columns(rows=rows.num_rows, ids=ids, numbers=numbers)


def take_or_default(columns: Columns, rows: IntArray, features: Sequence[Feature]) -> Columns:
    """Return these rows; a negative row has no ids, and the defaults of numbers."""
    taken = columns.take(rows)
    defaults = {feature.name: np.float32(feature.default) for feature in features if feature.kind == NUMBER}
    numbers = {name: np.where(rows < 0, defaults[name], values) for name, values in taken.numbers.items()}
    return dataclasses.replace(taken, numbers=numbers)


_DAYS = 1 << 22
"""Days per item in a key: eleven thousand years, half of them before 1970."""
_LAST_DAY = _DAYS // 2 - 1


def _key(items: IntArray, times: IntArray) -> IntArray:
    return items * _DAYS + times // DAY_MS + _DAYS // 2


def _item_of(keys: IntArray) -> IntArray:
    return keys // _DAYS
