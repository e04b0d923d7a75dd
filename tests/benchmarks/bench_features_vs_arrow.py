"""Beam pages, statistics, transitions and sequences against one in-memory DuckDB program that gives the same rows.

Both read the same Parquet files of clean events and write their results as Parquet; the results are compared before any
figure is returned. The work is linear in events, so the rate should not fall as they grow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.schemas import EVENT_KINDS, EVENTS
from features.workspace import Workspace
from pipelines.batch.config import BatchConfig
from pipelines.batch.jobs import build_features, build_sequences

NAME = "features_vs_arrow"
DAY = 86_400_000
START = 1_700_006_400_000
DAYS = 20
PAGE_ITEMS = 8

PEER = """
CREATE TABLE items AS
SELECT user_id, request_id, item_id, min(position) AS position, min(ms) AS first, max(code) AS code,
       arg_min(ms, (-code, ms)) AS ms
FROM (SELECT *, epoch_ms(timestamp) AS ms, list_position($kinds, event) - 1 AS code FROM read_parquet($events))
GROUP BY user_id, request_id, item_id;

CREATE TABLE pages AS
SELECT user_id, request_id, min(first) AS page_ms, list(item_id ORDER BY position, first, item_id) AS items,
       list(code ORDER BY position, first, item_id) AS codes
FROM items GROUP BY user_id, request_id;

CREATE TABLE entries AS
SELECT items.*, (page_ms >= $validation)::INT + (page_ms >= $test)::INT AS split,
       row_number() OVER (PARTITION BY user_id ORDER BY page_ms, request_id,
                          CASE code WHEN 4 THEN -1 ELSE code END DESC, ms, position, first, item_id) AS place
FROM items JOIN (SELECT user_id, request_id, page_ms FROM pages) USING (user_id, request_id)
WHERE ms < CASE WHEN page_ms < $validation THEN $validation WHEN page_ms < $test THEN $test ELSE 9e18 END;

CREATE TABLE sequences AS
SELECT user_id, split, list(item_id ORDER BY place) AS items, list(code ORDER BY place) AS events,
       list(ms ORDER BY place) AS times
FROM entries GROUP BY user_id, split;

CREATE TABLE positives AS
SELECT user_id, item_id, ms, row_number() OVER (PARTITION BY user_id ORDER BY ms, place) AS place
FROM entries WHERE split = 0 AND code BETWEEN 1 AND 3;

CREATE TABLE statistics AS
SELECT item_id, count(*) FILTER (code BETWEEN 1 AND 3) AS popularity,
       count(DISTINCT user_id) FILTER (code BETWEEN 1 AND 3) AS users, min(ms) AS first, max(ms) AS last
FROM entries WHERE split = 0 GROUP BY item_id;

CREATE TABLE transitions AS
WITH followed AS (
    SELECT item_id AS a, unnest([lead(item_id, 1) OVER w, lead(item_id, 2) OVER w, lead(item_id, 3) OVER w]) AS b,
           unnest([6, 3, 2]) AS units
    FROM positives WINDOW w AS (PARTITION BY user_id ORDER BY place)
), units AS (
    SELECT a, b, 2 * units AS units FROM followed WHERE a <> b
    UNION ALL SELECT b, a, units FROM followed WHERE a <> b
), summed AS (SELECT a, b, sum(units) / 12 AS weight FROM units GROUP BY a, b)
SELECT a, b, weight / sqrt((x.popularity + 10) * (y.popularity + 10)) AS weight
FROM summed JOIN statistics x ON a = x.item_id JOIN statistics y ON b = y.item_id;
"""


def run(full: bool) -> list[dict[str, Any]]:
    """Measure 10**6 events, or 10**5 to 10**7."""
    results = []
    for size in (10**5, 10**6, 10**7) if full else (10**6,):
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(folder)
            write_clean_events(workspace, size)
            ours = _seconds(lambda workspace=workspace: _ours(workspace))
            peer = _seconds(lambda workspace=workspace, folder=folder: _peer(workspace, Path(folder)))
            assert_equal_results(workspace, Path(folder))
        results.append(
            {
                "name": NAME if size == 10**6 else f"{NAME}[{size:.0e} events]",
                "ours": size / ours,
                "peer": size / peer,
                "peer_name": f"DuckDB {duckdb.__version__}, in memory, all cores",
                "unit": "events/s",
                "ratio": peer / ours,
                "better": "higher",
            }
        )
    return results


def write_clean_events(workspace: Workspace, size: int) -> None:
    """Write about `size` events: pages of 8 impressions, a quarter of them followed by a click, some by more."""
    rng = np.random.default_rng(size)
    pages = max(size // (PAGE_ITEMS + 3), 1)
    page_E = np.repeat(np.arange(pages), PAGE_ITEMS)
    item_E = rng.zipf(1.2, len(page_E)) % 20_000
    position_E = np.tile(np.arange(PAGE_ITEMS), pages)
    user_P, time_P = rng.integers(0, max(pages // 20, 1), pages), rng.integers(0, DAYS * DAY, pages)
    columns = [(page_E, item_E, position_E, np.zeros(len(page_E), np.int64), np.zeros(len(page_E), np.int64))]
    for code, share in ((1, 0.25), (2, 0.08), (3, 0.04)):
        kept = rng.random(len(page_E)) < share
        delay = rng.integers(1, 3_600_000, int(kept.sum()))
        columns.append((page_E[kept], item_E[kept], position_E[kept], np.full(int(kept.sum()), code), delay))
    page, item, position, code, delay = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    table = workspace.table("clean_events")
    time_E = time_P[page] + delay
    entries = []
    for day in range(int(time_E.max()) // DAY + 1):
        rows = np.flatnonzero(time_E // DAY == day)
        part = {
            "event_id": _names("e", rows),
            "user_id": _names("u", user_P[page[rows]]),
            "item_id": _names("i", item[rows]),
            "event": pa.array(EVENT_KINDS).take(pa.array(code[rows])),
            "timestamp": pa.array(START + time_E[rows]).cast(EVENTS.field("timestamp").type),
            "request_id": _names("r", page[rows]),
            "position": pa.array(position[rows]),
        }
        date = str(np.datetime64(START + day * DAY, "ms").astype("datetime64[D]"))
        entries.append(table.write_part(pa.table(part), shard=0, date=date))
    table.commit(entries)


def _names(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ours(workspace: Workspace) -> None:
    config = BatchConfig()
    build_features(workspace, config)
    build_sequences(workspace, config)


def _peer(workspace: Workspace, folder: Path) -> None:
    split = workspace.table("sequences").manifest().notes["split"]
    parameters = {
        "events": workspace.table("clean_events").files(),
        "kinds": list(EVENT_KINDS),
        "validation": split["validation_ms"],
        "test": split["test_ms"],
    }
    with duckdb.connect() as connection:
        for statement in PEER.split(";\n"):
            used = {name: value for name, value in parameters.items() if f"${name}" in statement}
            connection.execute(statement, used)
        for name in ("pages", "sequences", "statistics", "transitions"):
            connection.execute(f"COPY {name} TO '{folder / name}.parquet' (FORMAT parquet, COMPRESSION zstd)")


def assert_equal_results(workspace: Workspace, folder: Path) -> None:
    """Raise unless both programs wrote the same pages, statistics, transitions and sequences."""
    theirs = {path.stem: pq.read_table(path) for path in folder.glob("*.parquet")}
    pages = workspace.table("pages").read(["user_id", "request_id", "items"]).sort_by("request_id")
    peer_pages = theirs["pages"].sort_by("request_id")
    assert pages.column("request_id").equals(peer_pages.column("request_id").cast(pa.string()))
    _assert_same(pages, peer_pages, [("user_id", "user_id"), ("items", "items")])
    ours = workspace.table("item_statistics").read().sort_by("item_id")
    _assert_same(
        ours.set_column(0, "item_id", ours.column("item_id")),
        theirs["statistics"].sort_by("item_id"),
        [("item_id", "item_id"), ("popularity", "popularity"), ("users", "users")],
    )
    keys = [("item_id", "ascending"), ("next_item_id", "ascending")]
    ours = workspace.table("transitions").read().sort_by(keys)
    peer = theirs["transitions"].sort_by([("a", "ascending"), ("b", "ascending")])
    _assert_same(ours, peer, [("item_id", "a"), ("next_item_id", "b")])
    assert np.allclose(np.asarray(ours.column("weight")), np.asarray(peer.column("weight")), rtol=1e-12)
    names = pa.array(["train", "validation", "test"])
    peer = theirs["sequences"]
    peer = peer.set_column(1, "split", names.take(peer.column("split").combine_chunks()))
    keys = [("user_id", "ascending"), ("split", "ascending")]
    same = [(name, name) for name in ("user_id", "split", "items", "events")]
    _assert_same(workspace.table("sequences").read().sort_by(keys), peer.sort_by(keys), same)


def _assert_same(ours: pa.Table, peer: pa.Table, columns: list[tuple[str, str]]) -> None:
    assert ours.num_rows == peer.num_rows, (ours.num_rows, peer.num_rows)
    for name, peer_name in columns:
        column = ours.column(name)
        assert column.equals(peer.column(peer_name).cast(column.type)), name
