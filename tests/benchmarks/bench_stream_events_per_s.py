"""The streaming pipeline on this machine: events per second from a backlog, and the lag at a constant rate.

An event counts when it is in the log and folded into all views of its user and its item. Messages hold 10 events of one
user, a tenth of the users makes half of the events; all items have a category, a brand and a price, by which users'
features count. The lag of an event is the time from its acceptance (its position
says when) to the end of its range; a process of its own appends at the rate, whatever the pipeline does meanwhile.
That every event was logged once is asserted before any figure is returned. There is no peer: nothing else does the
same work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import EVENTS, StreamRecord, parts_of
from features.stream.records import ITEMS as CATALOGUE
from features.workspace import Workspace
from pipelines.batch.config import PagesConfig
from pipelines.streaming.log import Range, committed_log
from pipelines.streaming.run import run_stream

NAME = "stream_events_per_s"
USERS, ITEMS, PER_MESSAGE = 20_000, 5_000, 10
BACKLOG, RATE, SECONDS = 200_000, 20_000, 15
START = 1_767_225_600_000
STEP_S = 0.02
NAMESPACE = "pagewise"


def run(full: bool) -> list[dict[str, Any]]:
    """Measure a backlog, then the lag at 20,000 events a second, or at four rates."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        workspace = Workspace(Path(folder) / "workspace")
        with EmbeddedRedis(workspace.local_path("store")) as server:
            append(server.url, [catalogue(), *records(BACKLOG // 10, seed=0)])
            take_up(workspace, server.url)  # imports, and states of most users
            append(server.url, records(BACKLOG, seed=1))
            began = time.perf_counter()
            take_up(workspace, server.url)
            rate = BACKLOG / (time.perf_counter() - began)
            lags = [
                measure_lag(workspace, server.url, each)
                for each in ((5_000, 10_000, RATE, 30_000) if full else (RATE,))
            ]
    return [result(NAME, rate, "events/s", "higher"), *(line for lag in lags for line in lag)]


def measure_lag(workspace: Workspace, url: str, rate: int) -> list[dict[str, Any]]:
    """Return median and 99th percentile of the lag at a rate, after 3 seconds."""
    stopping, ends = threading.Event(), list[tuple[int, float]]()

    def done(taken: Range, _: object) -> None:
        ends.append((taken.last, time.time()))

    before = committed_log(workspace).counts["events.logged"]
    with tempfile.NamedTemporaryFile() as output:
        command = [sys.executable, __file__, url, str(rate), output.name]
        with subprocess.Popen(command) as producer:
            threading.Thread(target=lambda: (producer.wait(), stopping.set()), daemon=True).start()
            take_up(workspace, url, stopping=stopping, until_empty=False, progress=done)
        take_up(workspace, url, progress=done)
        positions = np.array(json.loads(Path(output.name).read_text()))
    assert committed_log(workspace).counts["events.logged"] - before == len(positions) * PER_MESSAGE
    lasts, times = (np.array(column) for column in zip(*ends, strict=True))
    accepted = np.array([parts_of(int(position))[0] for position in positions]) / 1000
    lag_s = times[np.searchsorted(lasts, positions)] - accepted
    lag_s = lag_s[accepted > accepted[0] + 3]
    name = f"{NAME}[lag at {rate} events/s"
    return [result(f"{name}, p{part}]", float(np.percentile(lag_s, part)), "s", "lower") for part in (50, 99)]


def result(name: str, ours: float, unit: str, better: str) -> dict[str, Any]:
    """Return a figure without a peer."""
    return {
        "name": name,
        "ours": ours,
        "peer": None,
        "peer_name": None,
        "unit": unit,
        "ratio": None,
        "better": better,
    }


def take_up(workspace: Workspace, url: str, *, stopping: threading.Event | None = None, **options: Any) -> None:
    """Run the pipeline."""
    progress = options.pop("progress", lambda *_: None)
    run_stream(
        workspace,
        StreamConfig(**{"until_empty": True} | options),
        StoreConfig(url=url, timeout_s=10.0),
        PagesConfig(),
        stopping=stopping or threading.Event(),
        progress=progress,
    )


def catalogue() -> StreamRecord:
    """Return the items, as one message."""
    rows = [
        {
            "item_id": f"item{number}",
            "title": f"Item number {number}",
            "category": [f"department{number % 10}", f"shelf{number % 100}"],
            "brand": f"brand{number % 300}",
            "price": 1.0 + number % 90,
        }
        for number in range(ITEMS)
    ]
    return StreamRecord.of_rows(CATALOGUE, rows)


def records(events: int, seed: int) -> list[StreamRecord]:
    """Return messages of events; times lie some milliseconds apart."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["impression", "click", "cart", "purchase"], events, p=[0.8, 0.14, 0.04, 0.02]).tolist()
    often = rng.random(events // PER_MESSAGE) < 0.5
    users = np.where(often, rng.integers(0, USERS // 10, len(often)), rng.integers(0, USERS, len(often))).tolist()
    # an item is shown once on a page: a second impression of it would be a duplicate
    items = ((rng.zipf(1.2, events) * PER_MESSAGE + np.arange(events) % PER_MESSAGE) % ITEMS).tolist()
    begin = START + seed * 3_600_000
    made = []
    for number, user in enumerate(users):
        at = range(number * PER_MESSAGE, (number + 1) * PER_MESSAGE)
        rows = [
            {
                "event_id": f"{seed}-{place}",
                "user_id": f"user{user}",
                "item_id": f"item{items[place]}",
                "event": kinds[place],
                "timestamp": begin + place,
                "request_id": f"{seed}-{number}",
                "position": place - at[0],
            }
            for place in at
        ]
        made.append(StreamRecord.of_rows(EVENTS, rows))
    return made


def append(url: str, made: list[StreamRecord]) -> list[int]:
    """Append messages and return their positions."""
    with open_stream(StreamConfig(), url, NAMESPACE, 10.0) as stream:
        return [position for at in range(0, len(made), 1000) for position in stream.append(made[at : at + 1000])]


def produce(url: str, rate: int, output: str) -> None:
    """Append events at a constant rate, whatever happens to them, and write down the positions of their messages."""
    made, positions = records(rate * SECONDS, seed=2 + rate // 5_000), list[int]()
    with open_stream(StreamConfig(), url, NAMESPACE, 10.0) as stream:
        began = time.monotonic()
        while len(positions) < len(made):
            due = min(len(made), int((time.monotonic() - began) * rate / PER_MESSAGE))
            if due > len(positions):
                positions += stream.append(made[len(positions) : due])
            time.sleep(STEP_S)
    Path(output).write_text(json.dumps(positions))


if __name__ == "__main__":
    produce(sys.argv[1], int(sys.argv[2]), sys.argv[3])
