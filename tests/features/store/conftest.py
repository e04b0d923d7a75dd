"""The kinds of Redis that the store's tests run on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from redis_servers import cluster, free_port, one_server, sentinel, tls_in_front

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace

KINDS = (
    "embedded",
    "sentinel",
    "cluster",
    # to a client like the embedded one, but for the way it connects
    pytest.param("tcp", marks=pytest.mark.slow),
    pytest.param("tls", marks=pytest.mark.slow),
)


@pytest.fixture(scope="session")
def tcp_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with one_server(tmp_path_factory.mktemp("tcp-redis"), port):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def tls_redis_url(tcp_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = int(tcp_redis_url.rpartition(":")[2].partition("/")[0])
    with tls_in_front(port, tmp_path_factory.mktemp("tls")) as url:
        yield url


@pytest.fixture(scope="session")
def sentinel_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sentinel(tmp_path_factory.mktemp("sentinel")) as (url, _):
        yield url


@pytest.fixture(scope="session")
def cluster_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture(scope="session")
def embedded_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose Redis stays up between tests."""
    workspace = Workspace(tmp_path_factory.mktemp("embedded"))
    with open_store(StoreConfig(), workspace):
        yield workspace


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path) -> Iterator[RedisStore]:
    """A store on each kind of server; what the conformance suite runs on."""
    url = None if request.param == "embedded" else request.getfixturevalue(f"{request.param}_redis_url")
    workspace = request.getfixturevalue("embedded_workspace") if url is None else Workspace(tmp_path / "workspace")
    with open_store(StoreConfig(url=url, namespace=f"test-{tmp_path.name}", history_length=4), workspace) as opened:
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
