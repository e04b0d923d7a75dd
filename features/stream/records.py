"""What travels on the stream: rows of one table, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

EVENTS, PAGES, ITEMS, FEATURES = "events", "pages", "items", "features"
STREAM_TABLES = (EVENTS, PAGES, ITEMS, FEATURES)
"""Tables whose rows may travel: what happened, what was shown, new items, and what was read to make pages."""
REJECTED, DETAIL, ROW = "rejected", "detail", "row"
"""Columns of a line in place of a row that was rejected before it came here: one of `features.schemas.REASONS`, what
exactly was wrong, and the row's JSON, perhaps cut short. It is for the dead letters, under that reason."""

FOREIGN = "foreign"
"""Table of messages that somebody else has put on the stream."""

_SEQUENCE_BITS = 16


class StreamRecord(NamedTuple):
    """Rows of one table that are accepted together.

    Attributes:
        table: One of `STREAM_TABLES`.
        rows: JSON lines of the columns of that table in `features.schemas` (of `features`: `FEATURES_READ`); times are
            milliseconds since 1970 UTC, bytes are Base64, absent columns are null.
    """

    table: str
    rows: bytes

    @classmethod
    def of_rows(cls, table: str, rows: Iterable[Mapping[str, object]]) -> Self:
        r"""Encode rows; a mapping among the values travels as JSON within text.

        Raises:
            ValueError: The table does not travel on the stream.

        Example:
            >>> StreamRecord.of_rows("items", [{"item_id": "i1", "title": "Tea"}]).rows
            b'{"item_id":"i1","title":"Tea"}'
        """
        if table not in STREAM_TABLES:
            raise ValueError(f"stream record: expected a table of {', '.join(STREAM_TABLES)}, got {table!r}")
        plain = (
            {name: _json(value) if isinstance(value, Mapping) else value for name, value in row.items()} for row in rows
        )
        return cls(table, "\n".join(map(_json, plain)).encode(errors="replace"))


class Message(NamedTuple):
    """A record where it lies on the stream; positions rise, and are never given twice."""

    position: int
    record: StreamRecord


def position_of(milliseconds: int, sequence: int) -> int:
    """Return the position of the `sequence`-th message of a millisecond.

    Example:
        >>> position_of(1_700_000_000_000, 2) == (1_700_000_000_000 << 16) + 2
        True
    """
    return (milliseconds << _SEQUENCE_BITS) | sequence


def parts_of(position: int) -> tuple[int, int]:
    """Return the millisecond at which a message was accepted and its number within that.

    Example:
        >>> parts_of(position_of(1_700_000_000_000, 2))
        (1700000000000, 2)
    """
    return position >> _SEQUENCE_BITS, position & MAX_SEQUENCE


MAX_SEQUENCE = (1 << _SEQUENCE_BITS) - 1


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
