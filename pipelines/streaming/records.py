"""Messages of the stream as checked rows: JSON lines parsed, every row held against its table's contract.

Events and items are checked by the batch pipelines' own code, pages and what was read for them by `page_checks` and
`feature_checks`. A row that does not pass becomes
a dead letter with the reason; a line that is no row at all is kept as it came.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pyarrow as pa
import pyarrow.json as pajson

from features import schemas
from features.mistakes import REQUIRED_IDS, first_column, is_absent, reason_of
from features.schemas import EVENTS, FEATURES_READ, ITEMS, PAGES, TIMESTAMP
from features.stream import records
from features.stream.config import StreamConfig
from pipelines.batch.arrow import milliseconds
from pipelines.batch.checks import Checked, check_rows, dead_letters
from pipelines.batch.raw import RawBatch, read_object
from pipelines.streaming.feature_checks import check_features
from pipelines.streaming.log import Range
from pipelines.streaming.page_checks import SOURCE, check_pages, dead_rows

_HOUR_MS, _MINUTE_MS = 3_600_000, 60_000
_SCHEMAS = {records.EVENTS: EVENTS, records.PAGES: PAGES, records.ITEMS: ITEMS, records.FEATURES: FEATURES_READ}
_CAME_CHARACTERS = 100
"""So much of a value that does not fit is told."""
_REJECTED = f'"{records.REJECTED}"'.encode()
_CHECKS = {records.PAGES: check_pages, records.FEATURES: check_features}


def check_messages(table: str, lines: bytes) -> Checked:
    """Parse JSON lines of a table and check every row.

    Args:
        table: One of `features.stream.records.STREAM_TABLES`.
        lines: What records of this table hold, joined by line ends.

    Returns:
        Good rows in the table's schema, and dead letters of the others.
    """
    if table not in _SCHEMAS:
        detail = f"expected a table of {', '.join(_SCHEMAS)}, got {table!r}"
        return Checked(pa.table({}), dead_letters(table, schemas.MALFORMED, [detail], SOURCE, [_text(lines)]))
    lines, rejected = _rejected(table, lines)
    if not lines.strip():
        return Checked(_SCHEMAS[table].empty_table(), rejected)
    parsed = parse_lines(table, lines)
    batch = RawBatch(parsed.rows, [], SOURCE)
    checked = _CHECKS[table](batch) if table in _CHECKS else check_rows(table, batch)
    return dataclasses.replace(checked, dead=pa.concat_tables([checked.dead, parsed.dead, rejected]))


def _rejected(table: str, lines: bytes) -> tuple[bytes, pa.Table]:
    """Take out the lines of rows that were rejected before they came here; they say why."""
    if _REJECTED not in lines:
        return lines, schemas.DEAD_LETTERS.empty_table()
    kept, letters = [], [schemas.DEAD_LETTERS.empty_table()]
    for line in lines.split(b"\n"):
        told = _told(line) if _REJECTED in line else None
        if told is None:
            kept.append(line)
        else:
            reason, detail, row = told
            letters.append(dead_letters(table, reason, [detail], SOURCE, [row]))
    return b"\n".join(kept), pa.concat_tables(letters)


def _told(line: bytes) -> tuple[str, str | None, str] | None:
    """Return reason, detail and row that the line of a rejected row tells; None where it is another line."""
    try:
        told = read_object(line.decode())
    except ValueError:
        return None
    names = {records.REJECTED, records.DETAIL, records.ROW}
    if told.keys() != names or told[records.REJECTED] not in schemas.REASONS:
        return None
    detail, row = told[records.DETAIL], told[records.ROW]
    well = isinstance(row, str) and isinstance(detail, str | None)
    return (told[records.REJECTED], detail, row) if well else None


def parse_lines(table: str, lines: bytes) -> Checked:
    """Parse JSON lines: all at once where they fit the schema, else halves of them, down to the lines to blame.

    Returns:
        Rows of JSON's types, whose values have still to be checked, and dead letters of lines that do not fit.
    """
    plain = _plain(_SCHEMAS[table])
    if _is_for_arrow(lines):
        try:
            return Checked(_parse(lines, plain), schemas.DEAD_LETTERS.empty_table())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass  # the second is pyarrow's class for a JSON type that it does not convert
    middle = lines.find(b"\n", len(lines) // 2)
    if middle < 0:
        middle = lines.rfind(b"\n")
    if middle < 0:
        return _parse_one(table, lines)
    parts = [parse_lines(table, part) for part in (lines[:middle], lines[middle + 1 :]) if part.strip()]
    rows = pa.concat_tables([plain.empty_table(), *(part.rows for part in parts)])
    return Checked(rows, pa.concat_tables([schemas.DEAD_LETTERS.empty_table(), *(part.dead for part in parts)]))


def check_times(table: str, rows: pa.Table, taken: Range, config: StreamConfig) -> Checked:
    """Tell apart the rows that come too late, and those from the future.

    Args:
        table: Of the rows, for the dead letters.
        rows: Of a table with times.
        taken: The range they came in: its watermark and its clock count, so that a range that is taken up again
            decides alike.
        config: Uses `lateness_hours` and `future_minutes`.
    """
    times = milliseconds(rows.column("timestamp"))
    latest = taken.opened + config.future_minutes * _MINUTE_MS
    # a clock that was ahead for a while must not make late what comes when it is right again
    earliest = min(taken.watermark, latest) - config.lateness_hours * _HOUR_MS
    late, future = times < earliest, times > latest
    if not (late.any() or future.any()):
        return Checked(rows, schemas.DEAD_LETTERS.empty_table())
    faults = [(schemas.TOO_LATE, late, f"at most {config.lateness_hours:g} hours before the newest event")]
    faults.append((schemas.IN_THE_FUTURE, future, f"at most {config.future_minutes:g} minutes ahead of the clock"))
    dead = [dead_rows(table, reason, rows, bad, "timestamp", expected) for reason, bad, expected in faults]
    return Checked(rows.filter(pa.array(~(late | future))), pa.concat_tables(dead))


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema as JSON has it: times are whole numbers, maps are JSON within text, bytes are Base64."""
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if kind == TIMESTAMP:
        return pa.int64()
    if pa.types.is_map(kind) or pa.types.is_binary(kind):
        return pa.string()
    return pa.list_(_plain_type(kind.value_type)) if pa.types.is_list(kind) else kind


def _is_for_arrow(lines: bytes) -> bool:
    """Return whether these are objects in UTF-8: Arrow checks no text, and a `null` before any object kills it."""
    try:
        lines.decode()
    except UnicodeDecodeError:
        return False
    return lines.lstrip().startswith(b"{")


def _parse(lines: bytes, plain: pa.Schema) -> pa.Table:
    options = pajson.ParseOptions(explicit_schema=plain, unexpected_field_behavior="error")
    block = max(len(lines), 1 << 16)
    rows = pajson.read_json(pa.BufferReader(lines), pajson.ReadOptions(use_threads=False, block_size=block), options)
    return rows.select(plain.names)


def _parse_one(table: str, line: bytes) -> Checked:
    """Parse a line that Arrow does not read; it is filed by its first column with a value of another type."""
    try:
        record = read_object(line.decode())
    except UnicodeDecodeError as error:
        return _dead_line(table, schemas.MALFORMED, f"expected UTF-8, got byte 0x{line[error.start]:02x}", line)
    except ValueError as error:
        return _dead_line(table, schemas.MALFORMED, str(error), line)
    schema = _SCHEMAS[table]
    cells = {field.name: _fitted(record.get(field.name), field.type) for field in schema}
    wrong = {name for name, cell in cells.items() if cell is None}
    if not (wrong or record.keys() - cells.keys()):
        return Checked(pa.table(cells, _plain(schema)), schemas.DEAD_LETTERS.empty_table())
    absent = {name for name in REQUIRED_IDS if name in schema.names and is_absent(record.get(name))}
    column = first_column([*sorted(wrong | absent), *sorted(record.keys() - cells.keys())])
    expected = f"one of the columns {', '.join(schema.names)}"
    if column in schema.names:
        expected = "an id" if column in absent else _expected(schema.field(column).type)
    came = repr(record.get(column))[:_CAME_CHARACTERS]
    return _dead_line(table, reason_of(column, record.get(column)), f"{column}: expected {expected}, got {came}", line)


def _dead_line(table: str, reason: str, detail: str, line: bytes) -> Checked:
    letter = dead_letters(table, reason, [detail], SOURCE, [_text(line)])
    return Checked(_plain(_SCHEMAS[table]).empty_table(), letter)


def _fitted(value: Any, kind: pa.DataType) -> pa.Array | None:
    """Return the cell, None where a value is of another type."""
    if pa.types.is_map(kind) and isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) and not pa.types.is_boolean(kind):  # Arrow would take it for a number
        return None
    if pa.types.is_list(kind) and isinstance(value, str):  # Arrow would take it for a list of its letters
        return None
    try:
        return pa.array([value], _plain_type(kind))
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        return None


def _expected(kind: pa.DataType) -> str:
    """Say what a column's values are in JSON."""
    if kind == TIMESTAMP:
        return "whole milliseconds since 1970"
    if pa.types.is_map(kind):
        return "names and values"
    if pa.types.is_list(kind):
        return f"a list, of each {_expected(kind.value_type)}"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_integer(kind):
        return "a whole number"
    return "a number" if pa.types.is_floating(kind) else "a text"


def _text(line: bytes) -> str:
    return line.decode(errors="replace")
