"""A small stream with everything in it, and a look at all that a run of the pipeline leaves behind."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from features.schemas import EVENT_KINDS, LOG_TABLES, STREAM_POSITION
from features.store.base import HISTORY, ITEM, ITEM_FEATURES, ITEM_STATE, SEEN, STATE
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import EVENTS, ITEMS, PAGES, StreamRecord
from features.workspace import Workspace
from pipelines.batch.config import PagesConfig
from pipelines.streaming.log import committed_log
from pipelines.streaming.run import StreamReport, run_stream

START, HOUR = 1_767_171_600_000, 3_600_000
"""2025-12-31 09:00 UTC, and an hour, milliseconds."""
USERS, SHOP = [f"user{number}" for number in range(5)], [f"item{number}" for number in range(8)]
USER_VIEWS, ITEM_VIEWS = (HISTORY, STATE, SEEN), (ITEM, ITEM_STATE, ITEM_FEATURES)


def event(user: str, item: str, kind: str, time: int, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event": kind, "timestamp": time, **more}


def page(request: str, user: str, items: Sequence[str], time: int, **more: Any) -> dict[str, Any]:
    propensities = [1 / (1 + place) for place in range(len(items))]
    return {
        "request_id": request,
        "user_id": user,
        "timestamp": time,
        "items": items,
        "propensities": propensities,
    } | more


def item(item_id: str, **more: Any) -> dict[str, Any]:
    return {"item_id": item_id, "title": item_id.title(), "category": ["Home", item_id[-1]], "price": 3.5} | more


def messages(seed: int = 0, pages: int = 8, facts_change: bool = True) -> list[StreamRecord]:
    """Records in the order of arrival: items, pages, what users do on them, repetitions, late and bad rows."""
    rng = random.Random(seed)
    records = [StreamRecord.of_rows(ITEMS, [item(name) for name in SHOP[:6]])]
    sent: list[StreamRecord] = []
    for number in range(pages):
        time = START + number * 3 * HOUR + rng.randrange(HOUR)
        user = rng.choice(USERS)
        shown = rng.sample(SHOP, 4)
        request = f"r{number}"
        sent.append(StreamRecord.of_rows(PAGES, [page(request, user, shown, time)]))
        seen = [event(user, name, "impression", time + 500, request_id=request) for name in shown[:2]]
        acts = [
            event(user, shown[place], rng.choice(EVENT_KINDS[1:]), time + 1000 * (1 + place), request_id=request)
            for place in rng.sample(range(4), 2)
        ]
        alone = event(rng.choice(USERS), rng.choice(SHOP), "click", time - rng.randrange(20 * HOUR))
        sent.append(StreamRecord.of_rows(EVENTS, [*seen, *acts, alone]))
        if number % 3 == 1:
            sent.append(rng.choice(sent))
        if number == pages // 2:
            late = event(USERS[0], SHOP[0], "click", START - 60 * HOUR)
            sent.append(StreamRecord.of_rows(EVENTS, [late, event(USERS[0], SHOP[0], "nod", time)]))
            sent.append(StreamRecord(EVENTS, b"no row"))
            changed = [item(SHOP[6]), item(SHOP[0], price=9.0), item(SHOP[6], brand="B")]
            sent.append(StreamRecord.of_rows(ITEMS, changed if facts_change else [item(SHOP[0])]))
    return records + sent


def store_config(url: str, namespace: str) -> StoreConfig:
    return StoreConfig(url=url, namespace=namespace, history_length=20, timeout_s=20.0)


def append(url: str, namespace: str, records: Sequence[StreamRecord]) -> None:
    with open_stream(StreamConfig(), url, namespace) as stream:
        stream.append(records)


def take_up(folder: Path, url: str, namespace: str, wait_s: float = 60.0, **options: Any) -> StreamReport:
    """Run the pipeline until nothing waits any more."""
    progress = options.pop("progress", lambda *_: None)
    config = StreamConfig(
        **{"until_empty": True, "range_rows": 25, "interval_s": 0.001, "compact_ranges": 2, "shards": 2} | options
    )
    return run_stream(
        Workspace(folder),
        config,
        store_config(url, namespace),
        PagesConfig(),
        stopping=threading.Event(),
        progress=progress,
        lease_s=60.0,
        wait_s=wait_s,
    )


def logged(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of the log's tables, sorted, without their positions, which the clock gave."""
    workspace = Workspace(folder)
    log = committed_log(workspace)
    tables = {table: log.read(workspace, table).drop_columns([STREAM_POSITION]) for table in LOG_TABLES}
    return {table: sorted(rows.to_pylist(), key=repr) for table, rows in tables.items()}


def counts(folder: Path) -> dict[str, int]:
    """Rows by table and what became of them, nothing left out that is zero."""
    return {name: rows for name, rows in committed_log(Workspace(folder)).counts.items() if rows}


def held(url: str, namespace: str) -> dict[tuple[str, str], bytes | None]:
    """Payloads of everything that the store holds of the stream's users and items."""
    wanted = [
        *((view, user) for view in USER_VIEWS for user in USERS),
        *((view, name) for view in ITEM_VIEWS for name in SHOP),
    ]
    with RedisStore(url, store_config(url, namespace)) as store:
        blobs = store.read_blobs(wanted)
    return {key: blob and blob.payload for key, blob in zip(wanted, blobs, strict=True)}


def totals(found: dict[str, int], table: str) -> Iterator[tuple[str, int]]:
    """What went in, and what became of it."""
    dropped = sum(rows for name, rows in found.items() if name.startswith(f"{table}.dropped."))
    yield "in", found.get(f"{table}.in", 0) + found.get(f"{table}.implied", 0)
    yield "out", found.get(f"{table}.logged", 0) + found.get(f"{table}.duplicates", 0) + dropped
