"""What was read for served pages: its contract, and Base64 made bytes again."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import pyarrow as pa

from features import schemas
from features.schemas import FEATURES_READ
from pipelines.batch.arrow import Mask
from pipelines.batch.checks import Checked
from pipelines.batch.parse import parse_columns
from pipelines.batch.raw import RawBatch
from pipelines.streaming.page_checks import SOURCE, TIMES, Fault, absurd_times, dead_rows, shown_faults

TABLE = "features"
_WORD = 8
_AS_SENT = pa.schema(
    [
        field.with_type(pa.string())
        if field.type == pa.binary()
        else field.with_type(pa.list_(pa.string()))
        if field.type == pa.list_(pa.binary())
        else field
        for field in FEATURES_READ
    ]
)


def check_features(batch: RawBatch) -> Checked:
    """Apply the contract of `FEATURES_READ`; a row with several faults is filed under the first."""
    dead = [schemas.DEAD_LETTERS.empty_table()]
    if not batch.rows.num_rows:
        return Checked(FEATURES_READ.empty_table(), dead[0])
    rows = parse_columns(batch.rows, _AS_SENT, SOURCE).rows
    states = [_bytes(text) for text in rows.column("state").to_pylist()]
    items = [_list_of_bytes(texts) for texts in rows.column("item_features").to_pylist()]
    good = np.ones(rows.num_rows, bool)
    for reason, column, expected, bad in (*shown_faults(rows, ("item_features",)), *_faults(rows, states, items)):
        found = bad & good
        good &= ~bad
        dead.append(dead_rows(TABLE, reason, batch.rows, found, column, expected))
    for name, values in (("state", states), ("item_features", items)):
        place, field = rows.schema.get_field_index(name), FEATURES_READ.field(name)
        rows = rows.set_column(place, field, pa.array([value or None for value in values], field.type))
    return Checked(rows.filter(pa.array(good)).cast(FEATURES_READ), pa.concat_tables(dead))


def _faults(rows: pa.Table, states: list[bytes | None], items: list[list[bytes | None] | None]) -> list[Fault]:
    sizes = np.array([-1 if state is None else len(state) for state in states])
    unversioned: Mask = np.zeros(rows.num_rows, bool)
    for name in ("generation", "position"):
        values = np.asarray(rows.column(name).fill_null(-1))
        unversioned |= (sizes > 0) & (values < 0)
    unreadable = np.array([item is None for item in items])
    times = {name: np.asarray(absurd_times(rows.column(name), absent=False)) for name in ("event_time", "items_read")}
    return [
        *((schemas.BAD_TIMESTAMP, name, TIMES, absurd) for name, absurd in times.items()),
        (schemas.MALFORMED, "state", "Base64 of whole words of 8 bytes", (sizes < 0) | (sizes % _WORD != 0)),
        (schemas.MALFORMED, "position", "generation and position of the state, 0 or more", unversioned),
        (schemas.MALFORMED, "item_features", "Base64", unreadable),
    ]


def _bytes(text: str | None) -> bytes | None:
    """Return the bytes, none where there is no text, None where it is no Base64."""
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return None


def _list_of_bytes(texts: list[str | None] | None) -> list[bytes | None] | None:
    """Return the bytes of each text, None where it is absent; None where one is no Base64."""
    values = [_bytes(text) for text in texts or ()]
    return None if None in values else [value or None for value in values]
