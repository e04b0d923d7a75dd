"""`pagewise stream` as a process: metrics, Redis that dies and comes back, SIGTERM; mistakes that are told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import stream_world as world
from stream_world import START, event

from features.online.item_buckets import put_items
from features.store.base import LeaseHeldError, StoreUnavailableError
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.records import EVENTS, StreamRecord
from features.workspace import Workspace
from pagewise.main import main
from pipelines.batch.config import PagesConfig
from pipelines.streaming import folding
from pipelines.streaming.log import Range, committed_log
from pipelines.streaming.metrics import StreamMetrics
from pipelines.streaming.run import run_stream

pytestmark = pytest.mark.integration
WAIT_S = 120.0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def clicks(first: int, count: int) -> list[StreamRecord]:
    rows = [event("ann", f"item{number}", "click", START + number) for number in range(first, first + count)]
    return [StreamRecord.of_rows(EVENTS, [row]) for row in rows]


def logged(folder: Path) -> int:
    return committed_log(Workspace(folder)).counts.get("events.logged", 0)


def test_it_goes_on_without_redis_and_ends_after_a_range(tmp_path) -> None:
    command = [sys.executable, "-m", "pagewise.main", "stream", "--workspace", str(tmp_path), "stream.metrics_port=0"]
    output = tmp_path / "output.txt"
    with open(output, "w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(lambda: "metrics: http" in output.read_text())
            with EmbeddedRedis(tmp_path / "store") as server:
                feed(server, tmp_path, output)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
    assert "events: in 10, logged 10" in output.read_text()
    assert not [found for found in psutil.process_iter(["cwd"]) if found.info["cwd"] == str(tmp_path / "store")]


def feed(server: EmbeddedRedis, folder: Path, output: Path) -> None:
    """Let five clicks through, read the metrics, kill Redis, let five more through."""
    world.append(server.url, "pagewise", clicks(0, 5))
    wait_for(lambda: logged(folder) == 5)
    url = re.findall(r"metrics: (\S+)", output.read_text())[0]
    wait_for(lambda: "pagewise_stream_lag_seconds_count 5.0" in read(url))
    assert 'pagewise_stream_rows_total{table="events",what="logged"} 5.0' in read(url)
    assert "pagewise_stream_backlog_messages 0.0" in read(url)
    killed = server.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: server.pid not in (None, killed))  # the pipeline starts it again
    wait_for(lambda: answers(server.url))
    world.append(server.url, "pagewise", clicks(5, 5))
    wait_for(lambda: logged(folder) == 10)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return client.ping()
        except redis.RedisError:
            return False


def test_a_lost_lease_is_taken_again_and_a_store_that_fails_within_a_range_is_asked_again(
    tmp_path, redis_url, monkeypatch
) -> None:
    stopping, said, metrics = threading.Event(), list[str](), list[StreamMetrics]()
    answers = iter([StoreUnavailableError("gone for a moment")])

    def failing_once(*arguments: Any, **named: Any) -> None:
        for error in answers:
            raise error
        return put_items(*arguments, **named)

    monkeypatch.setattr(folding, "put_items", failing_once)
    world.append(redis_url, "lost lease", clicks(0, 3))

    def done(taken: Range, told: StreamMetrics) -> None:
        metrics.append(told)
        if len(metrics) == 1:
            with RedisStore(redis_url, world.store_config(redis_url, "lost lease")) as store:
                store.client.delete(store.keys.lease("stream"))
        else:
            stopping.set()

    def say(line: str) -> None:
        said.append(line)
        world.append(redis_url, "lost lease", clicks(3, 3))

    options = {"stopping": stopping, "progress": done, "say": say, "lease_s": 1.0}
    store, stream = world.store_config(redis_url, "lost lease"), StreamConfig(interval_s=0.01)
    run_stream(Workspace(tmp_path), stream, store, PagesConfig(), **options)
    assert logged(tmp_path) == 6
    assert metrics[-1].retries._value.get() == 1
    assert "trying again" in said[0]


def test_a_second_pipeline_is_refused(tmp_path, redis_url) -> None:
    with (
        RedisStore(redis_url, world.store_config(redis_url, "second")) as store,
        store.writer_lease("stream", 60.0),
        pytest.raises(LeaseHeldError, match="stream"),
    ):
        world.take_up(tmp_path, redis_url, "second", wait_s=0.1)


def token(process: psutil.Process, started: float) -> str:
    """What a lease's key holds."""
    return f"{socket.gethostname()}:{process.pid}:{started:.3f}:abc"


def test_who_takes_up_the_stream_on_this_machine_is_told_at_once(tmp_path, redis_url, capsys) -> None:
    other = psutil.Process(os.getppid())
    with RedisStore(redis_url, world.store_config(redis_url, "taken")) as store:
        store.client.set(store.keys.lease("stream"), token(other, other.create_time()), ex=600)
    options = [f"store.url={redis_url}", "store.namespace=taken", "stream.until_empty=true"]
    assert main(["stream", "--workspace", str(tmp_path), *options]) == 2
    told = (
        rf"stream is held by \S+:{other.pid} \(host:process, started 20.* UTC\), and one process writes at a time; stop"
    )
    assert re.search(told, capsys.readouterr().err)


def test_who_was_killed_is_waited_for_and_that_is_said(tmp_path, redis_url) -> None:
    said, other = list[str](), psutil.Process(os.getppid())
    with RedisStore(redis_url, world.store_config(redis_url, "killed")) as store:
        store.client.set(store.keys.lease("stream"), token(other, 1e9), px=500)  # its id has been used again
    config = world.store_config(redis_url, "killed")
    stream, stopping = StreamConfig(until_empty=True, interval_s=0.01), threading.Event()
    report = run_stream(Workspace(tmp_path), stream, config, PagesConfig(), stopping=stopping, say=said.append)
    assert report.ranges == 0
    (line,) = said
    assert f":{other.pid} (host:process, started 2001-09-09 01:46:40 UTC)" in line
    assert line.endswith("wait 10 s after it was killed; waiting for that, 15 s at most")


def test_a_taken_metrics_port_is_told(tmp_path, redis_url) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"stream\.metrics_port: cannot listen on 127\.0\.0\.1:{port}"):
            world.take_up(tmp_path, redis_url, "port", metrics_port=port)
