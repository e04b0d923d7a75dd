"""Under which reason a row is filed: one rule for the service, which answers at once, and whoever reads the stream."""

from __future__ import annotations

from collections.abc import Iterable

from features import schemas

REQUIRED_IDS = ("user_id", "item_id")
ID_COLUMNS = (*REQUIRED_IDS, "event_id", "request_id", "session_id")
_REASONS = {
    **dict.fromkeys(REQUIRED_IDS, schemas.BAD_ID),
    "event": schemas.UNKNOWN_EVENT,
    "timestamp": schemas.BAD_TIMESTAMP,
    "propensity": schemas.BAD_PROPENSITY,
    "value": schemas.BAD_VALUE,
    "position": schemas.BAD_VALUE,
    **dict.fromkeys(ID_COLUMNS[2:], schemas.BAD_ID),
    "price": schemas.BAD_VALUE,
    "available_from": schemas.BAD_TIMESTAMP,
}
"""Reason of each column that has one of its own; the first column of a row with a mistake decides."""
_ORDER = {column: place for place, column in enumerate(_REASONS)}
REASONS = sorted({*_REASONS.values(), schemas.NULL_ID})


def reason_of(column: str, value: object) -> str:
    """Return the reason for a value that cannot stand in a column; what is no id at all is none.

    Example:
        >>> reason_of("user_id", 5), reason_of("user_id", " "), reason_of("context", 5)
        ('bad_id', 'null_id', 'malformed')
    """
    if column in REQUIRED_IDS and is_absent(value):
        return schemas.NULL_ID
    return _REASONS.get(column, schemas.MALFORMED)


def is_absent(value: object) -> bool:
    """Return whether a JSON value names nobody: null, the empty text, or blanks only."""
    return value is None or (isinstance(value, str) and not value.strip())


def first_column(columns: Iterable[str]) -> str:
    """Return that of several columns with mistakes which decides; others come after those that have their own reason.

    Example:
        >>> first_column(["context", "timestamp", "user_id"])
        'user_id'
    """
    return min(columns, key=lambda column: _ORDER.get(column, len(_ORDER)))
