"""Which rows may pass: good ones, and of several with one id the first; the others become dead letters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import schemas
from features.schemas import DEAD_LETTERS, RAW_TABLES
from kernels.hashing import combine_hashes, hash_integers, hash_strings, hex_digits
from kernels.jagged import run_starts
from pipelines.batch.arrow import Ints, milliseconds, string_ranks
from pipelines.batch.faults import event_faults, item_faults, unreadable, user_faults
from pipelines.batch.page_faults import served_page_faults
from pipelines.batch.parse import check_columns, parse_columns
from pipelines.batch.raw import RawBatch, at_row

KEYS: dict[str, str] = {
    "events": "event_id",
    "items": "item_id",
    "users": "user_id",
    "served_pages": "request_id",
}
"""The column of each raw table that occurs only once in the clean one."""
PLACE = "_place"
"""Column that rows have between their check and `keep_first`: the number of their file, and their row of it."""
_ROW_BITS = 40
_EARLIEST_FIRST: dict[str, str] = {"events": "timestamp", "items": "available_from", "served_pages": "timestamp"}
FAULTS = {
    "events": event_faults,
    "items": item_faults,
    "users": user_faults,
    "served_pages": served_page_faults,
}
"""What may be wrong with the rows of each raw table."""


@dataclasses.dataclass(frozen=True)
class Checked:
    """Rows that pass, in the table's schema, and rows that do not, as dead letters."""

    rows: pa.Table
    dead: pa.Table


def check_rows(table: str, batch: RawBatch, file: int | None = None) -> Checked:
    """Apply the contract of a raw table to one batch; a row with several faults is filed under the first.

    Args:
        table: The raw table.
        batch: Rows of it.
        file: The number of their file: good rows get a column `PLACE`.

    Raises:
        ValueError: The file lacks a required column or has an unknown one.
    """
    broken = dead_letters(table, schemas.MALFORMED, batch.broken_details, batch.source, batch.broken_lines)
    if not batch.rows.num_rows:
        if batch.rows.column_names:
            check_columns(batch.rows.column_names, RAW_TABLES[table], batch.source)
        return Checked(RAW_TABLES[table].empty_table(), broken)
    parsed = parse_columns(batch.rows, RAW_TABLES[table], batch.source)
    for column, odd in batch.no_texts.items():
        parsed.unreadable[column] = odd | unreadable(parsed, column)
    good = np.ones(parsed.rows.num_rows, dtype=bool)
    dead = [broken]
    for fault in FAULTS[table](parsed):
        found = np.flatnonzero(fault.rows & good)
        good[found] = False
        if len(found):
            rejected = batch.rows.take(pa.array(found))
            details = [fault.detail(value) for value in rejected.column(fault.column).to_pylist()]
            if batch.numbers is not None:
                details = [at_row(*each) for each in zip(details, batch.numbers[found].tolist(), strict=True)]
            dead.append(dead_letters(table, fault.reason, details, batch.source, json_rows(rejected)))
    rows = parsed.rows if good.all() else parsed.rows.filter(pa.array(good))
    if table == "events":
        rows = _with_event_ids(rows)
    rows = rows.cast(RAW_TABLES[table])
    if file is not None:
        numbers = np.zeros(len(good), np.int64) if batch.numbers is None else batch.numbers
        rows = rows.append_column(PLACE, pa.array((file << _ROW_BITS) + numbers[good], pa.int64()))
    return Checked(rows, pa.concat_tables(dead))


def keep_first(table: str, rows: pa.Table, files: Sequence[str] = ()) -> Checked:
    """Keep one row of each id: the earliest, among equal ones the first as JSON; whatever the order they came in.

    Args:
        table: The raw table.
        rows: Of it, perhaps with `PLACE`, which is kept.
        files: By their numbers.
    """
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
    dead = duplicates(table, extra, "the first row was kept", files)
    return Checked(clean.take(pc.sort_indices(clean, [(key, "ascending")])), dead)


def duplicates(table: str, rows: pa.Table, kept: str, files: Sequence[str] = ()) -> pa.Table:
    """Make dead letters of rows whose ids other rows have, saying which of them `kept` its place."""
    key = KEYS[table]
    details = [f"{key} {value!r} occurs more than once; {kept}" for value in rows.column(key).to_pylist()]
    letters = dead_letters(table, schemas.DUPLICATE, details, None, json_rows(without_places(rows)))
    if PLACE not in rows.column_names:
        return letters
    sources: list[str | None] = []
    for row, place in enumerate(rows.column(PLACE).to_pylist()):
        sources.append(None if place is None else files[place >> _ROW_BITS])
        if place is not None and (number := place & ((1 << _ROW_BITS) - 1)):
            details[row] = at_row(details[row], number)
    index = letters.schema.get_field_index
    letters = letters.set_column(index("detail"), letters.schema.field("detail"), pa.array(details, pa.string()))
    return letters.set_column(index("source"), letters.schema.field("source"), pa.array(sources, pa.string()))


def without_places(rows: pa.Table) -> pa.Table:
    """Return rows as their table has them."""
    return rows.drop_columns([PLACE]) if PLACE in rows.column_names else rows


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
    text = string_ranks(pa.array(json_rows(without_places(rows)), pa.string()))
    ranks = string_ranks(rows.column(KEYS[table]))
    order = np.lexsort((_places(rows), text, times, ranks))
    first = np.zeros(len(order), dtype=bool)
    first[run_starts(ranks[order])] = True
    return rows.take(pa.array(order[first])), rows.take(pa.array(order[~first]))


def _places(rows: pa.Table) -> Ints:
    """Return where rows came from; those that stand already come first."""
    if PLACE not in rows.column_names:
        return np.zeros(rows.num_rows, np.int64)
    return np.asarray(pc.fill_null(rows.column(PLACE), -1))


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


def json_rows(rows: pa.Table) -> list[str]:
    """Return each row as JSON, without what is null."""
    records = ({name: value for name, value in row.items() if value is not None} for row in rows.to_pylist())
    return [json.dumps(record, default=str, sort_keys=True, ensure_ascii=False) for record in records]
