"""Logged pages as rows, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from features.schemas import PAGES


def page(number: int, items: Sequence[str], **columns: Any) -> dict[str, Any]:
    """Return a page of user `number % 4`, nothing clicked unless `events` say so."""
    row = {
        "request_id": f"r{number}",
        "user_id": f"u{number % 4}",
        "timestamp": 1_000 * number,
        "items": list(items),
        "events": ["impression"] * len(items),
        "event_times": [1_000 * number] * len(items),
    }
    return {**row, **columns}


def table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows in the schema of pages."""
    return pa.Table.from_pylist([{**dict.fromkeys(PAGES.names), **row} for row in rows], PAGES)
