"""Raw columns of any type -> columns of a table's schema; a cell that cannot be read becomes null and is remembered.

Times may be Arrow timestamps or dates (without a zone: UTC), ISO 8601 text (without an offset: UTC), or numbers since
1970: below 10**11 seconds, from there on milliseconds. Lists and maps may be text: JSON, or for a category its
levels joined by " > ". Booleans may be true/false/1/0. An empty text in a nullable column is null in every format, as
it is in CSV.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.events import CATEGORY
from features.schemas import TIMESTAMP
from pipelines.batch.arrow import Mask

MILLISECONDS_FROM = 10**11
"""Epoch numbers from here on are milliseconds (1973-03-03), below seconds (until the year 5138)."""
LATEST_TIME_MS = int(dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp() * 1000)
"""Times from here on, and before 1970, are taken for mistakes."""


@dataclasses.dataclass(frozen=True)
class Parsed:
    """`rows` in the schema's types, null where a cell could not be read; `unreadable` tells where, by column."""

    rows: pa.Table
    unreadable: dict[str, Mask]


def parse_columns(raw: pa.Table, schema: pa.Schema, source: str) -> Parsed:
    """Convert the columns of one batch.

    Raises:
        ValueError: A required column is missing or an unknown one is there.
    """
    check_columns(raw.column_names, schema, source)
    columns, unreadable = [], {}
    for field in schema:
        if field.name not in raw.column_names:
            columns.append(pa.nulls(raw.num_rows, field.type))
            continue
        values = raw.column(field.name).combine_chunks()
        parsed = parse_values(values, field.type, _to_path if field.name == CATEGORY else None)
        lost = np.asarray(pc.and_(values.is_valid(), parsed.is_null()))
        if lost.any():
            unreadable[field.name] = lost
        if field.nullable and pa.types.is_string(field.type) and pc.any(pc.equal(parsed, "")).as_py():
            parsed = pc.if_else(pc.equal(parsed, ""), None, parsed)
        columns.append(parsed)
    return Parsed(pa.Table.from_arrays(columns, names=schema.names), unreadable)


def check_columns(names: list[str], schema: pa.Schema, source: str) -> None:
    """Raise unless all required columns and no unknown ones are among `names`."""
    missing = [field.name for field in schema if not field.nullable and field.name not in names]
    unknown = [name for name in names if name not in schema.names]
    if missing or unknown:
        place = "context" if "context" in schema.names else "attributes"
        raise ValueError(
            f"{source}: missing columns: {', '.join(missing) or 'none'}; "
            f"unknown columns: {', '.join(unknown) or 'none'}; "
            f"expected {', '.join(schema.names)}; rename what matches, put the rest into {place} or leave it out"
        )


def parse_values(values: pa.Array, target: pa.DataType, convert: Callable[[Any], Any] | None = None) -> pa.Array:
    """Convert one column, null where a cell cannot be read.

    Args:
        values: Of any type.
        target: Type of the result.
        convert: Reads one cell where Arrow cannot cast; None for the usual way of the type.

    Example:
        >>> parse_values(pa.array(["3", "x", None]), pa.int32()).to_pylist()
        [3, None, None]
    """
    if values.type == target:
        return values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if target == TIMESTAMP:
        return _parse_times(values)
    try:
        if not (_is_text(values.type) and pa.types.is_nested(target)):
            return values.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # the second is pyarrow's class for a cast that it does not have: cell by cell, then
    convert = convert or _CONVERTERS[target]
    return pa.array([None if value is None else convert(value) for value in values.to_pylist()], target)


def _parse_times(values: pa.Array) -> pa.Array:
    if _is_text(values.type):
        return _parse_text_times(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return _epoch_times(np.asarray(values.cast(pa.float64(), safe=False).fill_null(math.nan)))
    if pa.types.is_temporal(values.type):
        zoned = values.cast(pa.timestamp("ms"), safe=False) if not _has_zone(values.type) else values
        return zoned.cast(TIMESTAMP, safe=False)
    return pa.nulls(len(values), TIMESTAMP)


def _parse_text_times(values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.timestamp("us", tz="UTC")).cast(TIMESTAMP, safe=False)
    except pa.ArrowInvalid:
        pass
    distinct = values.dictionary_encode()
    parsed = pa.array([_one_time(text) for text in distinct.dictionary.to_pylist()], TIMESTAMP)
    return parsed.take(distinct.indices)


def _one_time(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        try:
            moment = dt.datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        return math.floor(zoned.timestamp() * 1000)
    return _epoch_times(np.array([number])).cast(pa.int64())[0].as_py()


def _epoch_times(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> pa.Array:
    scaled = np.where(np.abs(numbers) < MILLISECONDS_FROM, numbers * 1000, numbers)
    readable = np.isfinite(scaled) & (np.abs(scaled) < 2**62)
    whole = np.floor(np.where(readable, scaled, 0)).astype(np.int64)
    return pa.array(whole, pa.int64(), mask=~readable).cast(TIMESTAMP)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _has_zone(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


def _to_int(value: Any) -> int | None:
    number = _to_float(value)
    whole = number is not None and math.isfinite(number) and number == int(number) and abs(number) < 2**31
    return int(number) if whole and number is not None else None


def _to_float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _to_bool(value: Any) -> bool | None:
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())


def _to_text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if isinstance(value, dict | list) else str(value)


def _to_path(value: Any) -> list[str] | None:
    if isinstance(value, str) and not value.startswith("["):
        return [level.strip() for level in value.split(" > ")]
    return _to_list(value)


def _to_list(value: Any) -> list[str] | None:
    if isinstance(value, str):
        value = _from_json(value)
    return [str(level) for level in value] if isinstance(value, list) else None


def _to_numbers(value: Any) -> list[float | None] | None:
    values = _from_json(value) if isinstance(value, str) else value
    if not isinstance(values, list):
        return None
    numbers = [None if cell is None else _to_float(cell) for cell in values]
    return None if numbers.count(None) > values.count(None) else numbers


def _to_map(value: Any) -> list[tuple[str, str]] | None:
    if isinstance(value, str):
        value = _from_json(value)
    pairs = value.items() if isinstance(value, dict) else value
    try:
        return sorted((str(key), str(entry)) for key, entry in pairs if entry is not None)
    except (TypeError, ValueError):
        return None


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


_CONVERTERS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): _to_text,
    pa.int32(): _to_int,
    pa.float64(): _to_float,
    pa.bool_(): _to_bool,
    pa.list_(pa.string()): _to_list,
    pa.list_(pa.float32()): _to_numbers,
    pa.list_(pa.float64()): _to_numbers,
    pa.map_(pa.string(), pa.string()): _to_map,
}
