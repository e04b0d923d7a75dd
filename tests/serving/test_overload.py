"""Ray Serve behind the gate with two replicas: counted together, one killed, swapped under load; errors are JSON.

That it refuses what it cannot take and can be drained, one replica shows in `test_application.py`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from ray import serve
from serving_processes import processes
from told_metrics import total

from features.store.config import StoreConfig
from features.workspace import Workspace
from serving.app import DEPLOYMENT
from serving.config import ServeConfig
from serving.run import RunningService, start_background
from serving.stages_deployment import APPLICATION

pytestmark = [pytest.mark.slow, pytest.mark.integration]

# batches wait, so that requests are in flight for long enough to be counted; three callers who ask without pause fit in
# even where the gate counts a request off after its caller has the answer
CONFIG = ServeConfig(port=0, replicas=2, max_batch=8, max_in_flight=8, batch_wait_ms=200, request_timeout_s=20)
ASK = {"user_id": "u0"}


@pytest.fixture(scope="module")
def service(workspace: Workspace, release_folder: Path, tmp_path_factory) -> Iterator[RunningService]:
    with start_background(workspace, release_folder, StoreConfig(), CONFIG) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=service.url, timeout=60, limits=limits) as client:
        yield client


def test_metrics_are_those_of_both_replicas(client):
    """Each replica answers its share, and any of them tells the sum."""
    before = total(client, "pagewise_pages_total")
    for _ in range(20):
        assert client.post("/v1/recommend", json=ASK).status_code == 200
    for _ in range(6):
        assert total(client, "pagewise_pages_total") == before + 20


def test_a_killed_replica_is_an_error_in_json_at_worst(client, workspace):
    with _Load(client) as load:
        replicas = sorted(processes("ray::ServeReplica:pagewise:pages"))
        assert len(replicas) == 2
        os.kill(replicas[0], signal.SIGKILL)
        _until(lambda: len(processes("ray::ServeReplica:pagewise:pages") - {replicas[0]}) == 2)
        _until(lambda: _replicas() == {"RUNNING": 2})
    assert load.statuses[200] > 0
    assert set(load.statuses) <= {200, 503}
    assert client.post("/v1/recommend", json=ASK).status_code == 200


def test_a_swap_under_load_loses_nothing_and_a_rollback_is_a_swap(client, service, release_folder, next_release_folder):
    for release in (next_release_folder, release_folder):
        with _Load(client) as load:
            service.swap(release)
            _until(lambda release=release: client.post("/v1/recommend", json=ASK).json()["release"] == release.name)
        assert not load.errors
        assert set(load.releases) == {release_folder.name, next_release_folder.name}


class _Load:
    """Two callers who ask without pause; every answer must be JSON."""

    def __init__(self, client: httpx.Client) -> None:
        self.statuses: Counter[int] = Counter()
        self.releases: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._client, self._enough = client, threading.Event()
        self._callers = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> _Load:
        for caller in self._callers:
            caller.start()
        _until(lambda: sum(self.statuses.values()) > 4)
        return self

    def __exit__(self, *exception: object) -> None:
        self._enough.set()
        for caller in self._callers:
            caller.join()

    def _ask(self) -> None:
        while not self._enough.is_set():
            answer = self._client.post("/v1/recommend", json=ASK)
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                self.releases[answer.json()["release"]] += 1
            else:
                self.errors[answer.json()["detail"]] += 1


def _replicas() -> dict[str, int]:
    return dict(serve.status().applications[APPLICATION].deployments[DEPLOYMENT].replica_states)


def _until(fits: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if fits():
            return
        time.sleep(0.05)
    raise AssertionError("not within two minutes")
