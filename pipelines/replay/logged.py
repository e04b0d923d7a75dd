"""Logged pages as arrays: what was shown among which candidates, with which probabilities, and what it earned.

Which files and rows count is decided before (`logs`), what cannot be judged is counted behind (`usable`): here nothing
is dropped, and a probability that is missing is nan.
Legend: `R` pages, `P` slots, `K` columns: the items that anybody might put on a page, `X` (page, item) pairs, `V`
distinct items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import CART, CLICK, DISLIKE, EVENT_CODE, EVENT_KINDS, PURCHASE
from kernels.hashing import hash_strings
from kernels.jagged import columns, row_numbers
from pipelines.batch.arrow import milliseconds
from pipelines.replay.config import ReplayConfig
from pipelines.replay.rounds import Bools, Floats, Hashes, Ints

NOBODY = -1
"""Stands for no item, and for an item that has no column."""
POSITION = "position"
"""Key of the context that says where on a larger page a page of one item stood."""
VALUE = "value"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedBatch:
    """Pages of a log.

    Attributes:
        pages: The rows, schema `features.schemas.PAGES`.
        users_R: Hash of each page's user.
        times_R: Milliseconds since 1970 UTC.
        items: The `V` distinct items of these pages, shown or candidates.
        shown_RP: Number of each shown item among `items`, `NOBODY` after a shorter page's end.
        there_RP: Which slots hold an item.
        propensities_RP: As logged; nan where there is none, 1 where there is no item.
        positions_RP: Where the item stood: its slot, or on pages of one item what their context says.
        rewards_RP: See `rewards`.
        candidate_rows_X, candidates_X, candidate_scores_X: Page, item number and score (nan where not logged) of every
            logged candidate.
        named_R: Whether the log names the page's candidates.
    """

    pages: pa.Table
    users_R: Hashes
    times_R: Ints
    items: pa.Array
    shown_RP: Ints
    there_RP: Bools
    propensities_RP: Floats
    positions_RP: Ints
    rewards_RP: Floats
    candidate_rows_X: Ints
    candidates_X: Ints
    candidate_scores_X: Floats
    named_R: Bools

    def __len__(self) -> int:
        return len(self.users_R)

    def column(self, name: str) -> pa.Array:
        """Return a column of the rows."""
        return self.pages.column(name).combine_chunks()


def read_batch(pages: pa.Table, config: ReplayConfig) -> LoggedBatch:
    """Turn rows into arrays.

    Args:
        pages: Rows of the schema `features.schemas.PAGES`.
        config: Says what is rewarded.

    Raises:
        ValueError: Lists of one page differ in length, one holds no item somewhere, or there is an unknown event.
    """
    pages = pages.combine_chunks()
    shown, candidates = _lists(pages, "items"), _lists(pages, "candidates")
    both = pc.dictionary_encode(pa.concat_arrays([shown.flatten(), candidates.flatten()]))
    numbers = np.asarray(both.indices, dtype=np.int64)
    lengths_R = _lengths(shown)
    place = (row_numbers(lengths_R), columns(lengths_R))
    shape = (len(pages), max(int(lengths_R.max(initial=0)), 1))
    shown_RP = np.full(shape, NOBODY)
    shown_RP[place] = numbers[: len(place[0])]
    propensities_RP = np.ones(shape)
    propensities_RP[place] = _values_beside(pages, "propensities", lengths_R)
    rewards_RP = np.zeros(shape)
    paid_X = _values_beside(pages, "values", lengths_R, strange=np.inf)
    rewards_RP[place] = rewards(_kinds(pages, lengths_R), paid_X, config)
    candidate_lengths_R = _lengths(candidates)
    return LoggedBatch(
        pages=pages,
        users_R=hash_strings(pages.column("user_id").combine_chunks()),
        times_R=milliseconds(pages.column("timestamp")),
        items=both.dictionary,
        shown_RP=shown_RP,
        there_RP=shown_RP != NOBODY,
        propensities_RP=propensities_RP,
        positions_RP=_positions(pages, lengths_R, shape),
        rewards_RP=rewards_RP,
        candidate_rows_X=row_numbers(candidate_lengths_R),
        candidates_X=numbers[len(place[0]) :],
        candidate_scores_X=_values_beside(pages, "candidate_scores", candidate_lengths_R),
        named_R=candidate_lengths_R > 0,
    )


def rewards(kinds_X: Ints, values_X: Floats, config: ReplayConfig) -> Floats:
    """Return the reward of shown items: the weights of what happened to each.

    An item that was bought was clicked, too; its `cart` counts where it came that far by its strongest event.

    Args:
        kinds_X: Codes of the strongest events (`features.schemas.EVENT_CODE`).
        values_X: What was paid, nan for nothing.
        config: The weights.

    Example:
        >>> kinds = np.array([EVENT_CODE["impression"], EVENT_CODE["click"], EVENT_CODE["purchase"]])
        >>> rewards(kinds, np.array([np.nan, np.nan, 8.0]), ReplayConfig(reward={"click": 1.0, "value": 0.5})).tolist()
        [0.0, 1.0, 5.0]
    """
    disliked_X = kinds_X == EVENT_CODE[DISLIKE]
    happened = {
        **{name: (kinds_X >= EVENT_CODE[name]) & ~disliked_X for name in (CLICK, CART, PURCHASE)},
        DISLIKE: disliked_X,
        VALUE: np.where(np.isnan(values_X), 0.0, values_X),
    }
    counting = {name: weight for name, weight in config.reward.items() if weight}
    total_X: Floats = sum((weight * happened[name] for name, weight in counting.items()), np.zeros(len(kinds_X)))
    return total_X


class Grid:
    """Columns for the items of each page, in the order in which they are first named.

    `items_RK` are the numbers of the items, `NOBODY` behind a page's last one; `there_RK` says which hold one.

    Args:
        rows: Pages of (page, item) pairs, in parts.
        items: Item numbers, part by part.
        size: Number of pages.
    """

    def __init__(self, rows: Sequence[Ints], items: Sequence[Ints], size: int) -> None:
        row_X, item_X = np.concatenate(rows), np.concatenate(items)
        self._radix = int(item_X.max(initial=0)) + 1
        self._keys, first = np.unique(row_X * self._radix + item_X, return_index=True)
        row_Y = self._keys // self._radix
        order = np.lexsort((first, row_Y))
        counts_R = np.bincount(row_Y, minlength=size)
        self._column_Y = np.empty(len(order), dtype=np.int64)
        self._column_Y[order] = columns(counts_R)
        self.items_RK: Ints = np.full((size, max(int(counts_R.max(initial=0)), 1)), NOBODY)
        self.items_RK[row_Y, self._column_Y] = self._keys % self._radix
        self.there_RK: Bools = self.items_RK != NOBODY

    def find(self, rows_X: Ints, items_X: Ints) -> Ints:
        """Return the column of each item on the page beside it, `NOBODY` where it has none."""
        keys_X = rows_X * self._radix + items_X
        place_X = np.minimum(np.searchsorted(self._keys, keys_X), len(self._keys) - 1)
        known_X = (self._keys[place_X] == keys_X) & (items_X >= 0) & (items_X < self._radix)
        return np.where(known_X, self._column_Y[place_X], NOBODY)


def _lists(pages: pa.Table, name: str) -> pa.ListArray:
    column = pages.column(name).combine_chunks()
    lists = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    if name in ("items", "candidates") and lists.flatten().null_count:
        rows_X = row_numbers(_lengths(lists))
        missing_R = np.bincount(rows_X, np.asarray(lists.flatten().is_null()), len(pages)) > 0
        raise _mistake(pages, missing_R, f"{name}: expected an id everywhere, got null")
    return lists


def _mistake(pages: pa.Table, wrong_R: Bools, says: str) -> ValueError:
    """Return what is wrong with some pages, naming the first of them."""
    page = pages.column("request_id")[int(np.argmax(wrong_R))].as_py()
    return ValueError(f"page {page!r}: {says}; {wrong_R.sum():,} of {len(wrong_R):,} pages are so")


def _lengths(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)


def _values_beside(pages: pa.Table, name: str, lengths_R: Ints, strange: float = np.nan) -> Floats:
    """Return a number for every entry of other lists of the same pages, nan where there is none.

    What was logged as nan becomes `strange`: infinite, where nothing at all would be an answer.
    """
    lists = _lists(pages, name)
    own_R = _lengths(lists)
    wrong_R = (own_R != lengths_R) & (own_R > 0)
    if wrong_R.any():
        first = int(np.argmax(wrong_R))
        raise _mistake(pages, wrong_R, f"{name}: expected one per item, {lengths_R[first]}, got {own_R[first]}")
    logged = lists.flatten().cast(pa.float64())
    values_X = np.full(int(lengths_R.sum()), np.nan)
    values_X[np.repeat(own_R > 0, lengths_R)] = pc.fill_null(pc.if_else(pc.is_nan(logged), strange, logged), np.nan)
    return values_X


def _kinds(pages: pa.Table, lengths_R: Ints) -> Ints:
    events = _lists(pages, "events")
    wrong_R = _lengths(events) != lengths_R
    if wrong_R.any():
        first = int(np.argmax(wrong_R))
        got = _lengths(events)[first]
        raise _mistake(pages, wrong_R, f"events: expected one per shown item, {lengths_R[first]}, got {got}")
    codes = np.asarray(pc.fill_null(pc.index_in(events.flatten(), value_set=pa.array(EVENT_KINDS)), -1), dtype=np.int64)
    if (codes < 0).any():
        unknown = pc.unique(events.flatten().filter(pa.array(codes < 0))).to_pylist()
        wrong_R = np.bincount(row_numbers(lengths_R), codes < 0, len(pages)) > 0
        raise _mistake(pages, wrong_R, f"events: expected {', '.join(EVENT_KINDS)}, got {unknown[:3]}")
    return codes


def _positions(pages: pa.Table, lengths_R: Ints, shape: tuple[int, int]) -> Ints:
    positions_RP = np.tile(np.arange(shape[1]), (shape[0], 1))
    said = pc.map_lookup(pages.column("context").combine_chunks(), POSITION, "first")
    said = pc.if_else(pc.match_substring_regex(said, "^[0-9]{1,9}$"), said, None).cast(pa.int64())
    alone_R = (lengths_R == 1) & np.asarray(said.is_valid())
    positions_RP[alone_R, 0] = np.asarray(pc.fill_null(said, 0))[alone_R]
    return positions_RP
