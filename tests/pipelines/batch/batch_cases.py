"""Small inputs: events in short form, random event logs, and raw tables in a workspace."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.schemas import EVENT_KINDS, EVENTS
from features.workspace import Workspace

DAY = 86_400_000
HOUR = 3_600_000
MINUTE = 60_000
START = int(dt.datetime(2024, 3, 1, tzinfo=dt.UTC).timestamp() * 1000)


def event(user: str, item: str, kind: str, at: int, **more: Any) -> dict[str, Any]:
    """One event, `at` milliseconds after `START`."""
    row = dict.fromkeys(EVENTS.names)
    row |= {"user_id": user, "item_id": item, "event": kind, "timestamp": START + at, **more}
    return row


def events_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Events with default ids `e0`, `e1`, ..."""
    named = [{**row, "event_id": row["event_id"] or f"e{number}"} for number, row in enumerate(rows)]
    return pa.Table.from_pylist(named, schema=EVENTS)


def random_events(seed: int, size: int, *, users: int = 4, items: int = 6, days: int = 6) -> list[dict[str, Any]]:
    """Events with many ties in time, some with requests and positions, some without."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(size):
        user = f"u{rng.integers(users)}"
        at = int(rng.integers(days)) * DAY + int(rng.integers(6)) * 20 * MINUTE
        asked = rng.random() < 0.5
        rows.append(
            event(
                user,
                f"i{rng.integers(items)}",
                EVENT_KINDS[rng.integers(len(EVENT_KINDS))],
                at,
                event_id=f"e{number}",
                request_id=f"{user}-r{rng.integers(3)}" if asked else None,
                position=int(rng.integers(4)) if asked and rng.random() < 0.7 else None,
                propensity=float(rng.integers(1, 5)) / 4 if asked and rng.random() < 0.5 else None,
                value=float(rng.integers(9)) if rng.random() < 0.5 else None,
                policy=f"p{rng.integers(2)}" if asked and rng.random() < 0.5 else None,
            )
        )
    return rows


def write_events(workspace: Workspace, rows: list[dict[str, Any]], *, files: int = 1) -> None:
    """Put raw events into a workspace as plain Parquet files, and one item."""
    folder = workspace.local_path("tables", "events")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        pq.write_table(pa.Table.from_pylist(rows[number::files], schema=EVENTS), folder / f"{number}.parquet")
    write_file(workspace, "items", "items.csv", "item_id,title\ni0,Item zero\n")


def write_file(workspace: Workspace, table: str, name: str, content: str | bytes) -> str:
    """Put one file into a raw table's folder and return its path."""
    path = workspace.local_path("tables", table, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)
