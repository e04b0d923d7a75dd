"""A shop under load that faults are put into: a service over HTTP, the stream as a process, Redis, and users.

The service runs in this process behind uvicorn, without Ray; everything else is as `pagewise` starts it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from release_cases import make_genrec, make_release, make_workspace

from features.schemas import EVENT_LOG, PAGE_LOG
from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import open_store
from features.stream.config import StreamConfig
from features.workspace import Workspace
from pipelines.streaming.log import committed_log
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.fallbacks import STORE_UNAVAILABLE
from serving.routes import build_api

DEADLINE_S = 120.0
STORE_MB, LOG_MB = 256, 32
GOOD, ACCEPTED = "200", "202"
"""A page that lacked nothing; events that were accepted."""
WITHOUT_RANKER = "without_ranker"


def wait_for(what: str, condition: Callable[[], object]) -> float:
    """Wait until a condition holds; return the seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + DEADLINE_S, f"waited in vain: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


class Disk:
    """A small file system of its own, which can be filled up; `mounted` is False where nothing may be mounted."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "pagewise-test", str(folder)]
        try:
            self.mounted = not subprocess.run(command, capture_output=True, check=False).returncode
        except OSError:
            self.mounted = False

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no byte free while the block runs."""
        if not self.mounted:
            pytest.skip("a small disk to fill up needs the right to mount one, which this process does not have")
        filler = self.folder / "filler"
        try:
            with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            yield
        finally:
            filler.unlink()

    def close(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


class StreamProcess:
    """`pagewise stream` of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._root = workspace.root
        self.output = Path(workspace.root, "stream_output.txt")
        self.output.touch()
        self.start()

    def start(self) -> None:
        """Start it; it takes over once the lease of a killed one has run out."""
        options = ["--workspace", self._root, "stream.interval_s=0.05"]
        command = [sys.executable, "-m", "pagewise.main", "stream", *options]
        with open(self.output, "a") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, and see the end of a process that was killed."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def tells_of_a_full_disk(self) -> int:
        """How often it has said so."""
        return self.output.read_text().count(os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Let it end after the present range."""
        self._process.terminate()
        assert self._process.wait(DEADLINE_S) == 0, self.output.read_text()[-2000:]


class World:
    """A workspace with a release and a filled store; Redis and the stream run.

    Attributes:
        workspace: Redis keeps its files on a small disk, `store_disk`; the stream its log on another, `log_disk`.
        release: Folder of the release.
        redis: The server.
        stream: The pipeline.
    """

    def __init__(self, root: Path, opened: contextlib.ExitStack) -> None:
        self.workspace = make_workspace(root)
        made = make_release(
            self.workspace.local_path("releases"), self.workspace, make_genrec(self.workspace), page_size=3
        )
        self.release = self.workspace.local_path("releases", made.release_id)
        self.store_disk = Disk(self.workspace.local_path("store"), STORE_MB)
        opened.callback(self.store_disk.close)
        self.log_disk = Disk(self.workspace.local_path("stream"), LOG_MB)
        opened.callback(self.log_disk.close)
        self.redis = opened.enter_context(EmbeddedRedis(self.workspace.local_path("store")))
        with open_store(StoreConfig(), self.workspace) as store:
            backfill(self.workspace, store, StoreConfig())
        self.stream = StreamProcess(self.workspace)
        opened.callback(self.stream.close)
        wait_for("the stream", lambda: "taking up the event stream" in self.stream.output.read_text())

    def logged(self, table: str, column: str) -> Counter[str]:
        """How often each name is in a table of the stream's log."""
        return Counter(committed_log(self.workspace).read(self.workspace, table).column(column).to_pylist())


@contextlib.contextmanager
def serving(world: World, **stream_options: Any) -> Iterator[str]:
    """Serve the world's release until the block ends; return the URL."""
    backend = make_backend(
        world.release,
        world.redis.url,
        StoreConfig(),
        StreamConfig(**stream_options),
        ServeConfig(feature_log_share=0.0),
    )
    server = uvicorn.Server(uvicorn.Config(build_api(backend), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for("uvicorn", lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


class Load:
    """Users who ask for pages, and clients who report events until each was accepted.

    Attributes:
        pages: Answers to requests for pages, by status and what stood in.
        events: Answers to batches of events, by status and error.
        shown: Pages that were answered, by request id.
        accepted: Ids of events that were accepted.
        retry_after: What refusals said.
        unlogged: Pages that are not in the log (`check_log`).
    """

    def __init__(self, url: str, name: str) -> None:
        self.pages, self.events = Counter[str](), Counter[str]()
        self._asked = {GOOD: 0.0, ACCEPTED: 0.0}
        self.shown: set[str] = set()
        self.accepted: set[str] = set()
        self.retry_after: set[str | None] = set()
        self.unlogged = 0
        self._url, self._name = url, name
        self._enough = threading.Event()
        self._newest = ""
        work = [self._ask, self._ask, self._report]
        self._threads = [threading.Thread(target=one, args=(seed,)) for seed, one in enumerate(work)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_for("the first pages and events", lambda: self.pages[GOOD] > 10 and self.events[ACCEPTED] > 3)
        return self

    def __exit__(self, *exception: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def until(self, what: str, condition: Callable[[], object]) -> float:
        """See `wait_for`."""
        return wait_for(f"{what}; {self.told()}", condition)

    def until_good(self) -> float:
        """Wait for pages that lack nothing; return the seconds until the first of them."""
        return self._until_asked_now(GOOD)

    def until_accepted(self) -> float:
        """Wait for events that are accepted; return the seconds until the first of them."""
        return self._until_asked_now(ACCEPTED)

    def told(self) -> dict[str, Any]:
        """What users saw."""
        return {"pages": dict(self.pages), "events": dict(self.events)}

    def _until_asked_now(self, status: str) -> float:
        now = time.monotonic()
        self.until(status, lambda: self._asked[status] > now)
        return self._asked[status] - now

    def _ask(self, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._enough.wait(0.02):
                began = time.monotonic()
                answer = client.post("/v1/recommend", json={"user_id": f"u{rng.randrange(10)}"})
                page = answer.json()
                if answer.status_code == 200:
                    self.shown.add(page["request_id"])
                    self.pages[" ".join(filter(None, [GOOD, page["fallback"]]))] += 1
                    self._asked[GOOD] = self._asked[GOOD] if page["fallback"] else began
                    assert page["items"]
                else:
                    self.pages[f"{answer.status_code} {page['error']}"] += 1

    def _report(self, seed: int) -> None:
        """Report events, five at a time; what was not accepted is sent again until it is."""
        rng, number = random.Random(seed), 0
        with httpx.Client(base_url=self._url, timeout=60) as client:
            waiting: list[dict[str, Any]] = []
            while waiting or not self._enough.wait(0.02):
                if not waiting:
                    waiting = [self._event(rng, number + place) for place in range(5)]
                    number += 5
                began = time.monotonic()
                answer = client.post("/v1/events", json={"events": waiting})
                told = answer.json()
                self.events[" ".join(filter(None, [str(answer.status_code), told.get("error")]))] += 1
                if str(answer.status_code) == ACCEPTED:
                    assert told["accepted"] == 5
                    self.accepted.update(event["event_id"] for event in waiting)
                    self._asked[ACCEPTED] = began
                    waiting = []
                else:
                    self.retry_after.add(answer.headers.get("retry-after"))
                    time.sleep(0.05)

    def _event(self, rng: random.Random, number: int) -> dict[str, Any]:
        return {
            "event_id": f"{self._name}-{number}",
            "user_id": f"client{rng.randrange(10)}",
            "item_id": f"i{rng.randrange(12):02d}",
            "event": "click",
            "timestamp": int(time.time() * 1000),
        }


def check_log(world: World, load: Load, unlogged: int = 0) -> float:
    """Wait until the log has everything that was accepted and shown; each row once. Return the seconds that took.

    Args:
        world: Has the log.
        load: Knows what was accepted and shown.
        unlogged: Pages that may be missing, as they were with a process that was killed.
    """

    def complete() -> bool:
        found = committed_log(world.workspace)
        events = set(found.read(world.workspace, EVENT_LOG).column("event_id").to_pylist())
        pages = set(found.read(world.workspace, PAGE_LOG).column("request_id").to_pylist())
        return load.accepted <= events and len(load.shown - pages) <= unlogged

    seconds = wait_for("all events and pages in the log", complete)
    events, pages = world.logged(EVENT_LOG, "event_id"), world.logged(PAGE_LOG, "request_id")
    assert {events[name] for name in load.accepted} == {1}
    assert {pages[name] for name in load.shown} <= {1, 0}
    load.unlogged = len(load.shown - set(pages))
    return seconds


def tell(told: dict[str, Any], fault: str, load: Load, **seconds: float) -> None:
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    kept = {"accepted": len(load.accepted), "lost": 0, "shown": len(load.shown), "unlogged": load.unlogged}
    told[fault] = {**load.told(), **kept, "seconds": rounded}


def check_seen(load: Load, *, fallbacks: Iterable[str] = (), refusals: Iterable[str] = ()) -> None:
    """Every page came, events were accepted or refused as told; nothing stood in but what is told.

    A machine that is busy with other things may leave out retrievers.
    """
    assert {status.split()[0] for status in load.pages} == {GOOD}, load.told()
    stood_in = {name for status in load.pages for name in status.removeprefix(GOOD).strip().split("+")}
    assert not stood_in & {STORE_UNAVAILABLE, WITHOUT_RANKER} - set(fallbacks), load.told()
    assert set(load.events) <= {ACCEPTED, *refusals}, load.told()


def kill(pid: int | None) -> None:
    """Kill a process."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
