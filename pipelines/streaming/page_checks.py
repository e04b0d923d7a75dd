"""Served pages: their contract, and the impressions that they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import schemas
from features.ids import ID, absent_ids, wrong_ids
from features.schemas import EVENT_KINDS, EVENTS, IMPRESSION, LARGEST_NUMBER, PAGES
from kernels.jagged import row_numbers
from kernels.ranks import string_ranks
from pipelines.batch.arrow import Mask
from pipelines.batch.checks import Checked, dead_letters
from pipelines.batch.faults import too_large
from pipelines.batch.parse import LATEST_TIME_MS, parse_columns
from pipelines.batch.raw import RawBatch

SOURCE = "stream"
"""Where dead letters of the stream say they came from."""
TIMES = "a time from 1970 to 2099"
Fault = tuple[str, str, str, Mask]
"""Reason, column, what was expected there, and the rows in which it is not."""
_IDS = ("request_id", "user_id")
_PER_ITEM = ("sources", "scores", "propensities", "events", "values", "event_times")
"""Columns of a page that hold a value for each item, where they hold any."""
_AS_SERVED = pa.schema(
    [field.with_nullable(field.name in ("events", "event_times") or field.nullable) for field in PAGES]
)
"""Pages as the service sends them: what happened to them may be left out."""


def check_pages(batch: RawBatch) -> Checked:
    """Apply the contract of served pages; a page with several faults is filed under the first.

    Columns that tell what happened to a page are filled in: nothing has, so far.
    """
    dead = [schemas.DEAD_LETTERS.empty_table()]
    if not batch.rows.num_rows:
        return Checked(PAGES.empty_table(), dead[0])
    parsed = parse_columns(batch.rows, _AS_SERVED, SOURCE)
    rows, good = parsed.rows, np.ones(batch.rows.num_rows, bool)
    for reason, column, expected, bad in _page_faults(rows, parsed.unreadable):
        found = bad & good
        good &= ~bad
        dead.append(dead_rows("pages", reason, batch.rows, found, column, expected))
    return Checked(_completed(rows.filter(pa.array(good))), pa.concat_tables(dead))


def _page_faults(rows: pa.Table, unreadable: dict[str, Mask]) -> list[Fault]:
    faults = shown_faults(rows, _PER_ITEM)
    faults.append((schemas.MALFORMED, "items", "distinct item ids", _repeating(rows.column("items"))))
    known = pa.array(EVENT_KINDS)
    faults += [
        (
            schemas.BAD_PROPENSITY,
            "propensities",
            "probabilities in (0, 1]",
            _any(
                rows.column("propensities"), lambda p: pc.fill_null(pc.or_(pc.less_equal(p, 0), pc.greater(p, 1)), True)
            ),
        ),
        (
            schemas.BAD_VALUE,
            "values",
            f"finite numbers of at most {LARGEST_NUMBER:g}",
            _any(rows.column("values"), lambda paid: pc.fill_null(too_large(paid), False)),
        ),
        (
            schemas.BAD_TIMESTAMP,
            "event_times",
            TIMES,
            _any(rows.column("event_times"), lambda times: absurd_times(times, absent=True)),
        ),
        (
            schemas.UNKNOWN_EVENT,
            "events",
            f"of {', '.join(EVENT_KINDS)}",
            _any(rows.column("events"), lambda kinds: pc.invert(pc.is_in(kinds, value_set=known))),
        ),
        *(
            (schemas.MALFORMED, name, f"a value of type {PAGES.field(name).type}", bad)
            for name, bad in unreadable.items()
        ),
    ]
    return faults


def shown_faults(rows: pa.Table, per_item: Sequence[str]) -> list[Fault]:
    """Return which rows do not say what was shown to whom, and when.

    Args:
        rows: Ids, time and items of pages.
        per_item: Columns that hold a value for each item, where they hold any.
    """
    shown = np.asarray(pc.fill_null(pc.list_value_length(rows.column("items")), 0))
    faults = [
        *((schemas.NULL_ID, name, "an id", absent_ids(rows.column(name))) for name in _IDS),
        *((schemas.BAD_ID, name, ID, wrong_ids(rows.column(name))) for name in _IDS),
        (schemas.BAD_TIMESTAMP, "timestamp", TIMES, np.asarray(absurd_times(rows.column("timestamp"), absent=True))),
        (schemas.MALFORMED, "items", "at least one item", shown == 0),
        (schemas.NULL_ID, "items", "ids", _any(rows.column("items"), absent_ids)),
    ]
    faults.append((schemas.BAD_ID, "items", f"of each {ID}", _any(rows.column("items"), wrong_ids)))
    for name in per_item:
        lengths = np.asarray(pc.fill_null(pc.list_value_length(rows.column(name)), -1))
        faults.append((schemas.MALFORMED, name, "a value for each item", (lengths >= 0) & (lengths != shown)))
    return faults


def absurd_times(times: pa.Array | pa.ChunkedArray, *, absent: bool) -> pa.Array | pa.ChunkedArray:
    """Return which times are mistakes, which nobody could print, either; `absent` says whether none is one."""
    moments = times.cast(pa.int64())
    return pc.fill_null(pc.or_(pc.less(moments, 0), pc.greater_equal(moments, LATEST_TIME_MS)), absent)


def _completed(rows: pa.Table) -> pa.Table:
    """Fill in what a page holds that nobody has acted on yet: impressions, at the time it was served."""
    items = rows.column("items").combine_chunks()
    parents = pc.list_parent_indices(items)
    shown = pa.array([IMPRESSION] * len(parents), pa.string())
    served = rows.column("timestamp").combine_chunks().take(parents)
    for name, values in (("events", shown), ("event_times", served)):
        given = rows.column(name).combine_chunks()
        default = pa.ListArray.from_arrays(_offsets(items), values)
        index = rows.schema.get_field_index(name)
        filled = pc.if_else(given.is_valid(), given, default.cast(given.type)) if len(given) else given
        rows = rows.set_column(index, name, filled)
    return rows.cast(PAGES)


def _flat(values: pa.Array, lengths: npt.NDArray[np.int64]) -> pa.Array:
    """Return the values of all lists, a null for each place of a list that is absent."""
    present = np.repeat(np.asarray(values.is_valid()), lengths)
    flat = pc.list_flatten(values)
    index = np.where(present, np.cumsum(present) - 1, 0)
    return flat.take(pa.array(index, mask=~present))


def _offsets(lists: pa.Array) -> pa.Array:
    lengths = np.asarray(pc.list_value_length(lists)).astype(np.int32)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _any(lists: pa.ChunkedArray, bad: Callable[[pa.Array], pa.Array | Mask]) -> Mask:
    """Return which lists hold a bad value."""
    array = lists.combine_chunks()
    found = np.zeros(len(array), bool)
    values = pc.list_flatten(array)
    if len(values):
        found[np.asarray(pc.list_parent_indices(array))[np.asarray(bad(values))]] = True
    return found


def _repeating(lists: pa.ChunkedArray) -> Mask:
    """Return which lists hold a value twice."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
    values, rows = string_ranks(pc.list_flatten(lists)), row_numbers(lengths)
    _, first = np.unique(np.stack([rows, values]), axis=1, return_index=True)
    return np.bincount(rows[first], minlength=len(lengths)) < lengths


def dead_rows(table: str, reason: str, rows: pa.Table, bad: Mask, column: str, expected: str) -> pa.Table:
    """Make dead letters of the bad rows, which say what one of their columns holds."""
    found = rows.filter(pa.array(bad)).to_pylist() if bad.any() else []
    details = [f"{column}: expected {expected}, got {row[column]!s}" for row in found]
    texts = [
        json.dumps({name: value for name, value in row.items() if value is not None}, default=str, sort_keys=True)
        for row in found
    ]
    return dead_letters(table, reason, details, SOURCE, texts)


def implied_impressions(pages: pa.Table) -> pa.Table:
    """Return the impressions that served pages are: one for each item, with its place and propensity.

    Args:
        pages: Rows of `features.schemas.PAGES`.
    """
    items = pages.column("items").combine_chunks()
    parents = pc.list_parent_indices(items)
    lengths = np.asarray(pc.list_value_length(items)).astype(np.int64)
    size = len(parents)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    taken = {name: pages.column(name).combine_chunks().take(parents) for name in ("user_id", "request_id", "policy")}
    columns = {
        **taken,
        "timestamp": pages.column("timestamp").combine_chunks().take(parents),
        "item_id": pc.list_flatten(items),
        "event": pa.array([IMPRESSION] * size, pa.string()),
        "position": pa.array(np.arange(size) - starts, pa.int32()),
        "propensity": _flat(pages.column("propensities").combine_chunks(), lengths),
    }
    absent = {field.name: pa.nulls(size, field.type) for field in EVENTS if field.name not in columns}
    return pa.table({name: {**columns, **absent}[name] for name in EVENTS.names}, schema=EVENTS)
