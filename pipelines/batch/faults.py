"""The contract of events, items and users: what may be wrong with a row, the first fault first."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import schemas
from features.ids import ID, absent_ids, wrong_ids
from features.schemas import LARGEST_NUMBER, PURCHASE, RAW_TABLES
from pipelines.batch.arrow import Mask
from pipelines.batch.parse import LATEST_TIME_MS, Parsed

_IN_TEXT = "; in CSV and other text as JSON, such as"
_EXPECTED: dict[pa.DataType, str] = {
    pa.list_(pa.string()): f'a list of texts{_IN_TEXT} ["a", "b"]',
    pa.list_(pa.float32()): f"a list of numbers{_IN_TEXT} [0.5, 0.25]",
    pa.list_(pa.float64()): f"a list of numbers{_IN_TEXT} [0.5, 0.25]",
    schemas.STRING_MAP: f'names and values{_IN_TEXT} {{"a": "b"}}',
    pa.bool_(): "true or false",
    pa.string(): "a text",
}
EXPECTED: dict[str, str] = {
    field.name: _EXPECTED.get(field.type, str(field.type)) for schema in RAW_TABLES.values() for field in schema
}
EXPECTED["category"] += " or joined by ' > '"
"""What a column's values should be where they cannot be read at all."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that is wrong with some rows.

    Attributes:
        reason: Of `schemas.REASONS`.
        column: Whose values are wrong.
        expected: What they should be.
        rows: Which rows have it, bool per row.
    """

    reason: str
    column: str
    expected: str
    rows: Mask

    def detail(self, value: object) -> str:
        """Say what was wrong with one value."""
        return f"{self.column}: expected {self.expected}, got {value!r}"


def event_faults(parsed: Parsed) -> list[Fault]:
    """Return what is wrong with rows of `events`."""
    rows = parsed.rows
    value, propensity = rows.column("value"), rows.column("propensity")
    bad_propensity = pc.invert(pc.and_(pc.greater(propensity, 0), pc.less_equal(propensity, 1)))
    paid = pc.equal(rows.column("event"), PURCHASE)
    return [
        *null_ids(parsed, "user_id", "item_id"),
        Fault(
            schemas.UNKNOWN_EVENT,
            "event",
            f"one of {', '.join(schemas.EVENT_KINDS)}",
            ~where(pc.is_in(rows.column("event"), pa.array(schemas.EVENT_KINDS))),
        ),
        time_fault(parsed, "timestamp", required=True),
        Fault(schemas.NEGATIVE_PRICE, "value", "a price >= 0", where(pc.and_(paid, pc.less(value, 0)))),
        Fault(
            schemas.BAD_PROPENSITY,
            "propensity",
            "a probability in (0, 1]",
            where(bad_propensity) | unreadable(parsed, "propensity"),
        ),
        number_fault(parsed, "value"),
        Fault(
            schemas.BAD_VALUE,
            "position",
            "a whole number >= 0",
            where(pc.less(rows.column("position"), 0)) | unreadable(parsed, "position"),
        ),
        *bad_ids(parsed, "event_id", "request_id", "session_id"),
        *malformed(parsed, "policy", "context"),
    ]


def item_faults(parsed: Parsed) -> list[Fault]:
    """Return what is wrong with rows of `items`."""
    title = parsed.rows.column("title")
    return [
        *null_ids(parsed, "item_id"),
        Fault(schemas.MALFORMED, "title", "a title", np.asarray(title.is_null())),
        time_fault(parsed, "available_from", required=False),
        Fault(schemas.NEGATIVE_PRICE, "price", "a price >= 0", where(pc.less(parsed.rows.column("price"), 0))),
        number_fault(parsed, "price"),
        *malformed(parsed, "description", "category", "brand", "available", "attributes"),
    ]


def user_faults(parsed: Parsed) -> list[Fault]:
    """Return what is wrong with rows of `users`."""
    return [*null_ids(parsed, "user_id"), *malformed(parsed, "attributes")]


def null_ids(parsed: Parsed, *columns: str) -> list[Fault]:
    """Return where an id is missing or is none, by column."""
    faults = []
    for column in columns:
        absent = absent_ids(parsed.rows.column(column)) & ~unreadable(parsed, column)
        faults.append(Fault(schemas.NULL_ID, column, "an id", absent))
    return [*faults, *bad_ids(parsed, *columns)]


def bad_ids(parsed: Parsed, *columns: str) -> list[Fault]:
    """Return where a value is of another type, too long for an id, blank, or holds control characters, by column."""
    faults = []
    for column in columns:
        ids = parsed.rows.column(column)
        blank = absent_ids(ids) & np.asarray(ids.is_valid())
        faults.append(Fault(schemas.BAD_ID, column, ID, wrong_ids(ids) | blank | unreadable(parsed, column)))
    return faults


def time_fault(parsed: Parsed, column: str, *, required: bool) -> Fault:
    """Return where a time is absurd, unreadable or, if it is required, missing."""
    times = parsed.rows.column(column)
    number = times.cast(pa.int64())
    absurd = where(pc.or_(pc.less(number, 0), pc.greater_equal(number, LATEST_TIME_MS)))
    absent = np.asarray(times.is_null()) if required else unreadable(parsed, column)
    return Fault(schemas.BAD_TIMESTAMP, column, "a time from 1970 to 2099", absurd | absent)


def number_fault(parsed: Parsed, column: str) -> Fault:
    """Return where a number is not finite, too large to be meant, or unreadable."""
    large = where(too_large(parsed.rows.column(column)))
    expected = f"a finite number of at most {LARGEST_NUMBER:g}"
    return Fault(schemas.BAD_VALUE, column, expected, large | unreadable(parsed, column))


def too_large(numbers: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return which numbers are not finite or too large to be meant; null stays null."""
    return pc.invert(pc.less_equal(pc.abs(numbers), LARGEST_NUMBER))


def malformed(parsed: Parsed, *columns: str) -> list[Fault]:
    """Return where a value could not be read, by column."""
    return [
        Fault(schemas.MALFORMED, column, EXPECTED[column], parsed.unreadable[column])
        for column in columns
        if column in parsed.unreadable
    ]


def unreadable(parsed: Parsed, column: str) -> Mask:
    """Return which values of a column could not be read."""
    return parsed.unreadable.get(column, np.zeros(parsed.rows.num_rows, dtype=bool))


def where(condition: pa.ChunkedArray) -> Mask:
    """Return where a condition holds; null counts as no."""
    return np.asarray(pc.fill_null(condition, False))
