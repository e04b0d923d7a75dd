"""`pagewise stream` as a process: metrics, Redis that dies and comes back, SIGTERM; mistakes that are told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import stream_world as world
from stream_world import START, event

from features.store.base import LeaseHeldError
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import RedisStore
from features.stream.records import EVENTS, StreamRecord
from features.workspace import Workspace
from pipelines.streaming.log import committed_log

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
        wait_for(lambda: "metrics: http" in output.read_text())
        with EmbeddedRedis(tmp_path / "store") as server:
            world.append(server.url, "pagewise", clicks(0, 5))
            wait_for(lambda: logged(tmp_path) == 5)
            url = re.findall(r"metrics: (\S+)", output.read_text())[0]
            told = urllib.request.urlopen(url, timeout=30).read().decode()
            assert 'pagewise_stream_rows_total{table="events",what="logged"} 5.0' in told
            assert "pagewise_stream_backlog_messages 0.0" in told
            assert "pagewise_stream_lag_seconds_count 5.0" in told
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda: server.pid is not None)  # the pipeline starts it again
            world.append(server.url, "pagewise", clicks(5, 5))
            wait_for(lambda: logged(tmp_path) == 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    text = output.read_text()
    assert "events: duplicates 0" not in text
    assert "events: in 10, logged 10" in text
    assert not [found for found in psutil.process_iter(["name", "cwd"]) if found.info["cwd"] == str(tmp_path / "store")]


def test_a_second_pipeline_is_refused(tmp_path, redis_url) -> None:
    with (
        RedisStore(redis_url, world.store_config(redis_url, "second")) as store,
        store.writer_lease("stream", 60.0),
        pytest.raises(LeaseHeldError, match="stream"),
    ):
        world.take_up(tmp_path, redis_url, "second", lease_s=0.1)


def test_a_taken_metrics_port_is_told(tmp_path, redis_url) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"stream\.metrics_port: cannot listen on 127\.0\.0\.1:{port}"):
            world.take_up(tmp_path, redis_url, "port", metrics_port=port)
