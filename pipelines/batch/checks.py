"""Which rows may pass: the contract of each raw table, row by row, and which of several rows with one id is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import schemas
from features.schemas import DEAD_LETTERS, PURCHASE, RAW_TABLES
from kernels.hashing import combine_hashes, hash_integers, hash_strings, hex_digits
from kernels.jagged import run_starts
from pipelines.batch.arrow import Ints, Mask, milliseconds, string_ranks
from pipelines.batch.parse import LATEST_TIME_MS, Parsed, parse_columns
from pipelines.batch.raw import RawBatch

KEYS: dict[str, str] = {"events": "event_id", "items": "item_id", "users": "user_id"}
"""The column of each raw table that occurs only once in the clean one."""
_EARLIEST_FIRST: dict[str, str] = {"events": "timestamp", "items": "available_from"}


@dataclasses.dataclass(frozen=True)
class Checked:
    """Rows that pass, in the table's schema, and rows that do not, as dead letters."""

    rows: pa.Table
    dead: pa.Table


@dataclasses.dataclass(frozen=True)
class _Fault:
    reason: str
    column: str
    expected: str
    rows: Mask


def check_rows(table: str, batch: RawBatch) -> Checked:
    """Apply the contract of a raw table to one batch; a row with several faults is filed under the first.

    Raises:
        ValueError: The file lacks a required column or has an unknown one.
    """
    broken = dead_letters(table, schemas.MALFORMED, [None] * len(batch.broken_lines), batch.source, batch.broken_lines)
    if not batch.rows.num_rows:
        return Checked(RAW_TABLES[table].empty_table(), broken)
    parsed = parse_columns(batch.rows, RAW_TABLES[table], batch.source)
    good = np.ones(parsed.rows.num_rows, dtype=bool)
    dead = [broken]
    for fault in _FAULTS[table](parsed):
        found = np.flatnonzero(fault.rows & good)
        good[found] = False
        if len(found):
            rejected = batch.rows.take(pa.array(found))
            details = [_detail(fault, value) for value in rejected.column(fault.column).to_pylist()]
            dead.append(dead_letters(table, fault.reason, details, batch.source, json_rows(rejected)))
    rows = parsed.rows if good.all() else parsed.rows.filter(pa.array(good))
    if table == "events":
        rows = _with_event_ids(rows)
    return Checked(rows.cast(RAW_TABLES[table]), pa.concat_tables(dead))


def keep_first(table: str, rows: pa.Table) -> Checked:
    """Keep one row of each id: the earliest, among equal ones the first as JSON; whatever the order they came in."""
    key = KEYS[table]
    ranks = string_ranks(rows.column(key))
    order = np.argsort(ranks, kind="stable")
    starts = run_starts(ranks[order])
    if len(starts) == len(order):
        return Checked(rows.take(pa.array(order)), DEAD_LETTERS.empty_table())
    sizes = np.diff([*starts, len(order)])
    repeated = np.repeat(sizes > 1, sizes)
    kept, extra = _choose(table, rows.take(pa.array(order[repeated])))
    single = rows.take(pa.array(order[~repeated]))
    clean = pa.concat_tables([single, kept]).combine_chunks()
    dead = duplicates(table, extra, "the first row was kept")
    return Checked(clean.take(pc.sort_indices(clean, [(key, "ascending")])), dead)


def duplicates(table: str, rows: pa.Table, kept: str) -> pa.Table:
    """Make dead letters of rows whose ids other rows have, saying which of them `kept` its place."""
    key = KEYS[table]
    details = [f"{key} {value!r} occurs more than once; {kept}" for value in rows.column(key).to_pylist()]
    return dead_letters(table, schemas.DUPLICATE, details, None, json_rows(rows))


def dead_letters(
    table: str, reason: str, details: Sequence[str | None], source: str | None, rows: list[str]
) -> pa.Table:
    """Make dead letters of rows of one table rejected for one of `schemas.REASONS`."""
    assert reason in schemas.REASONS, reason
    size = len(rows)
    columns = [[table] * size, [reason] * size, list(details), [source] * size, rows]
    return pa.table(columns, schema=DEAD_LETTERS)


def _choose(table: str, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    times = _times(rows, _EARLIEST_FIRST.get(table))
    text = string_ranks(pa.array(json_rows(rows), pa.string()))
    ranks = string_ranks(rows.column(KEYS[table]))
    order = np.lexsort((text, times, ranks))
    first = np.zeros(len(order), dtype=bool)
    first[run_starts(ranks[order])] = True
    return rows.take(pa.array(order[first])), rows.take(pa.array(order[~first]))


def _times(rows: pa.Table, column: str | None) -> Ints:
    if column is None:
        return np.zeros(rows.num_rows, dtype=np.int64)
    latest = pa.scalar(np.iinfo(np.int64).max, pa.int64())
    return np.asarray(pc.fill_null(rows.column(column).cast(pa.int64()), latest))


def _with_event_ids(rows: pa.Table) -> pa.Table:
    given = rows.column("event_id")
    if not given.null_count:
        return rows
    absent = rows.filter(given.is_null())
    text = [hash_strings(absent.column(name)) for name in ("user_id", "item_id", "event", "request_id")]
    ids = hex_digits(combine_hashes(*text, hash_integers(milliseconds(absent.column("timestamp")))))
    filled = pc.replace_with_mask(given.combine_chunks(), given.combine_chunks().is_null(), ids)
    return rows.set_column(rows.schema.get_field_index("event_id"), "event_id", filled)


def _event_faults(parsed: Parsed) -> list[_Fault]:
    rows = parsed.rows
    value, propensity = rows.column("value"), rows.column("propensity")
    bad_propensity = pc.invert(pc.and_(pc.greater(propensity, 0), pc.less_equal(propensity, 1)))
    paid = pc.equal(rows.column("event"), PURCHASE)
    return [
        *_null_ids(parsed, "user_id", "item_id"),
        _Fault(
            schemas.UNKNOWN_EVENT,
            "event",
            f"one of {', '.join(schemas.EVENT_KINDS)}",
            ~_mask(pc.is_in(rows.column("event"), pa.array(schemas.EVENT_KINDS))),
        ),
        _time_fault(parsed, "timestamp", required=True),
        _Fault(schemas.NEGATIVE_PRICE, "value", "a price >= 0", _mask(pc.and_(paid, pc.less(value, 0)))),
        _Fault(
            schemas.BAD_PROPENSITY,
            "propensity",
            "a probability in (0, 1]",
            _mask(bad_propensity) | _unreadable(parsed, "propensity"),
        ),
        _number_fault(parsed, "value"),
        _Fault(
            schemas.BAD_VALUE,
            "position",
            "a whole number >= 0",
            _mask(pc.less(rows.column("position"), 0)) | _unreadable(parsed, "position"),
        ),
        *_malformed(parsed, "event_id", "request_id", "session_id", "policy", "context"),
    ]


def _item_faults(parsed: Parsed) -> list[_Fault]:
    title = parsed.rows.column("title")
    return [
        *_null_ids(parsed, "item_id"),
        _Fault(schemas.MALFORMED, "title", "a title", np.asarray(title.is_null())),
        _time_fault(parsed, "available_from", required=False),
        _Fault(schemas.NEGATIVE_PRICE, "price", "a price >= 0", _mask(pc.less(parsed.rows.column("price"), 0))),
        _number_fault(parsed, "price"),
        *_malformed(parsed, "description", "category", "brand", "available", "attributes"),
    ]


def _user_faults(parsed: Parsed) -> list[_Fault]:
    return [*_null_ids(parsed, "user_id"), *_malformed(parsed, "attributes")]


_FAULTS: dict[str, Callable[[Parsed], list[_Fault]]] = {
    "events": _event_faults,
    "items": _item_faults,
    "users": _user_faults,
}


def _null_ids(parsed: Parsed, *columns: str) -> list[_Fault]:
    faults = []
    for column in columns:
        empty = pc.equal(pc.utf8_trim_whitespace(parsed.rows.column(column)), "")
        faults.append(_Fault(schemas.NULL_ID, column, "an id", np.asarray(pc.fill_null(empty, True))))
    return faults


def _time_fault(parsed: Parsed, column: str, *, required: bool) -> _Fault:
    times = parsed.rows.column(column)
    number = times.cast(pa.int64())
    absurd = _mask(pc.or_(pc.less(number, 0), pc.greater_equal(number, LATEST_TIME_MS)))
    absent = np.asarray(times.is_null()) if required else _unreadable(parsed, column)
    return _Fault(schemas.BAD_TIMESTAMP, column, "a time from 1970 to 2099", absurd | absent)


def _number_fault(parsed: Parsed, column: str) -> _Fault:
    infinite = _mask(pc.invert(pc.is_finite(parsed.rows.column(column))))
    return _Fault(schemas.BAD_VALUE, column, "a finite number", infinite | _unreadable(parsed, column))


def _malformed(parsed: Parsed, *columns: str) -> list[_Fault]:
    return [
        _Fault(schemas.MALFORMED, column, f"a value of type {RAW_TYPES[column]}", parsed.unreadable[column])
        for column in columns
        if column in parsed.unreadable
    ]


RAW_TYPES: dict[str, str] = {field.name: str(field.type) for schema in RAW_TABLES.values() for field in schema}


def _unreadable(parsed: Parsed, column: str) -> Mask:
    return parsed.unreadable.get(column, np.zeros(parsed.rows.num_rows, dtype=bool))


def _mask(condition: pa.ChunkedArray) -> Mask:
    return np.asarray(pc.fill_null(condition, False))


def _detail(fault: _Fault, value: object) -> str:
    return f"{fault.column}: expected {fault.expected}, got {value!r}"


def json_rows(rows: pa.Table) -> list[str]:
    """Return each row as JSON, without what is null."""
    records = ({name: value for name, value in row.items() if value is not None} for row in rows.to_pylist())
    return [json.dumps(record, default=str, sort_keys=True, ensure_ascii=False) for record in records]
