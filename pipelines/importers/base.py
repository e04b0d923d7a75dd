"""What an importer is: a function from the publisher's files to chunks of raw tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from features.schemas import DEAD_LETTERS, EVENTS, RAW_TABLES
from pipelines.importers.reading import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a user may choose about an import."""

    chunk_rows: int = 50_000
    """Rows held in memory at a time; the result does not depend on it."""
    positive_rating: float = 3.0
    """`movielens`: ratings from here on become clicks, lower ones dislikes. A disliked item is never shown to its user
    again, therefore the middle of the scale still counts as a click."""

    def __post_init__(self) -> None:
        if self.chunk_rows < 1:
            raise ValueError(f"chunk_rows: expected at least 1 row, got {self.chunk_rows}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """What a piece of a file became. Over a whole import, per table: read = rows + rejects + merged."""

    table: str
    rows: pa.Table
    """Rows in the schema of the raw table."""
    rejects: pa.Table = dataclasses.field(default_factory=DEAD_LETTERS.empty_table)
    read: int
    """Records of the publisher's file."""
    merged: int = 0
    """Records whose content went into another record's row."""


Read = Callable[[Source, ImportOptions], Iterator[Chunk]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importer:
    """One data set: how it is read and what users are told about it."""

    read: Read
    files: tuple[str, ...]
    """The publisher's file names, as error messages list them."""
    order_only: bool = False
    """The data have an order, but no times; the times in the table are days that stand for it."""


def events_table(columns: Mapping[str, Any]) -> pa.Table:
    """Return rows of the `events` table; absent columns become null."""
    size = len(columns["user_id"])
    return pa.table(
        [columns[field.name] if field.name in columns else pa.nulls(size, field.type) for field in EVENTS],
        schema=EVENTS,
    )


def item_chunks(records: Iterable[Mapping[str, Any]], chunk_rows: int) -> Iterator[Chunk]:
    """Yield items given one by one as chunks of the `items` table; nothing is rejected."""
    batch: list[Mapping[str, Any]] = []
    for record in records:
        batch.append(record)
        if len(batch) == chunk_rows:
            yield record_chunk("items", batch)
            batch = []
    if batch:
        yield record_chunk("items", batch)


def record_chunk(table: str, records: Sequence[Mapping[str, Any]], rejects: pa.Table | None = None) -> Chunk:
    """Return rows given as dictionaries as a chunk, beside what was rejected among them."""
    rows = pa.Table.from_pylist(list(records), schema=RAW_TABLES[table])
    rejects = DEAD_LETTERS.empty_table() if rejects is None else rejects
    return Chunk(table=table, rows=rows, rejects=rejects, read=rows.num_rows + rejects.num_rows)


def bare_items(item_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield items of which nothing but the id is known; it is also their title."""
    return ({"item_id": item_id, "title": item_id} for item_id in item_ids)
