"""Rows of one batch, from which faulty ones are taken out, reason after reason, and kept as rejects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import BAD_TIMESTAMP, MALFORMED, NULL_ID, RAW_TABLES, UNKNOWN_EVENT
from pipelines.batch.checks import dead_letters
from pipelines.batch.parse import LATEST_TIME_MS
from pipelines.batch.raw import RawBatch
from pipelines.importers.base import Chunk

LINE = "line"
"""Column of a batch with each record as the file has it; where there is none, a rejected row is written as JSON."""


class Sieve:
    """`rows` are those not rejected so far; every row of the batch is in `rows` or in the rejects.

    Args:
        table: The raw table the rows are meant for.
        raw: One batch; its broken lines are rejected as `malformed`.
        required: Columns the file must have.

    Raises:
        ValueError: The file lacks a required column.
    """

    def __init__(self, table: str, raw: RawBatch, required: Sequence[str]) -> None:
        missing = [name for name in required if name not in raw.rows.column_names]
        if missing:
            raise ValueError(
                f"{raw.source}: missing columns: {', '.join(missing)}; expected {', '.join(required)}, "
                f"got {', '.join(raw.rows.column_names)}; is it the publisher's file?"
            )
        self.table = table
        self.rows = raw.rows
        self.read = raw.rows.num_rows + len(raw.broken_lines)
        self._raw = raw
        self._numbers = np.arange(raw.rows.num_rows)
        self._dead = [broken_lines(table, raw.broken_lines, raw.source)]

    def reject(self, faulty: pa.ChunkedArray | pa.Array, reason: str, detail: str) -> None:
        """Take out the rows where `faulty` is true or null; they are kept as the file had them."""
        mask = np.asarray(pc.fill_null(faulty, True), dtype=bool)
        if not mask.any():
            return
        texts = _texts(self._raw.rows.take(pa.array(self._numbers[mask])))
        self._dead.append(dead_letters(self.table, reason, [detail] * len(texts), self._raw.source, texts))
        self.rows = self.rows.filter(pa.array(~mask))
        self._numbers = self._numbers[~mask]

    def reject_empty(self, *columns: str) -> None:
        """Take out the rows that lack an id."""
        for column in columns:
            empty = pc.equal(pc.utf8_trim_whitespace(self.rows.column(column)), "")
            self.reject(empty, NULL_ID, f"{column}: expected an id, got none")

    def replace(self, column: str, values: pa.Array) -> None:
        """Replace a column by values computed from it."""
        self.rows = self.rows.set_column(self.rows.schema.get_field_index(column), column, values)

    def replace_kinds(self, column: str, kinds: Mapping[str, str]) -> None:
        """Replace the publisher's event names by ours, taking out the rows whose name is none of `kinds`."""
        found = pc.index_in(self.rows.column(column), pa.array(list(kinds)))
        self.replace(column, pa.array(list(kinds.values())).take(found.combine_chunks()))
        detail = f"{column}: expected one of {', '.join(kinds)}"
        self.reject(self.rows.column(column).is_null(), UNKNOWN_EVENT, detail)

    def replace_times(self, column: str, times: pa.Array) -> None:
        """Replace a column by its times, taking out the rows where they are null, before 1970 or after 2099."""
        self.replace(column, times)
        number = times.cast(pa.int64())
        absurd = pc.or_(pc.less(number, 0), pc.greater_equal(number, LATEST_TIME_MS))
        self.reject(absurd, BAD_TIMESTAMP, f"{column}: expected a time from 1970 to 2099")

    @property
    def rejects(self) -> pa.Table:
        """All rejected rows as dead letters."""
        return pa.concat_tables(self._dead)

    def chunk(self, rows: pa.Table, *, merged: int = 0) -> Chunk:
        """Return `rows`, made from the accepted ones, together with the rejects."""
        return Chunk(table=self.table, rows=rows, rejects=self.rejects, read=self.read, merged=merged)

    def records(self, records: Iterable[Mapping[str, Any]]) -> Chunk:
        """Return rows given as dictionaries, made from the accepted ones, together with the rejects."""
        return self.chunk(pa.Table.from_pylist(list(records), schema=RAW_TABLES[self.table]))


def _texts(rows: pa.Table) -> list[str]:
    if LINE in rows.column_names:
        lines: list[str] = rows.column(LINE).to_pylist()
        return lines
    return [json.dumps({name: cell for name, cell in row.items() if cell is not None}) for row in rows.to_pylist()]


def broken_lines(table: str, lines: list[str], source: str) -> pa.Table:
    """Return lines that could not be read as records as rejects."""
    return dead_letters(table, MALFORMED, ["the line is not a whole record"] * len(lines), source, lines)
