"""HAProxy before two replicas: the same pages, the same form of errors, a killed replica."""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections import Counter

import httpx
import pytest
from serving_processes import processes

from features.store.config import StoreConfig
from serving.config import ServeConfig
from serving.haproxy import answer_in_json, haproxy_environment
from serving.run import start_background

CONFIG = ServeConfig(
    port=0, haproxy=True, replicas=2, max_batch=4, max_in_flight=4, batch_wait_ms=200, request_timeout_s=20
)
ASK = {"user_id": "u0", "page_size": 7}
CALLERS = 24


def test_its_files_lie_in_the_services_own_folder(tmp_path):
    told = haproxy_environment(tmp_path, 9998, 9999)
    files = [value for value in told.values() if "/" in value]
    assert len(files) == 5
    assert all(value.startswith(str(tmp_path)) for value in files)


def test_what_it_says_itself_is_json(tmp_path):
    (tmp_path / "h" / "node").mkdir(parents=True)
    (tmp_path / "h" / "node" / "500.http").write_text("HTTP/1.1 500 Internal Server Error")
    answer_in_json(tmp_path)
    head, body = (tmp_path / "h" / "node" / "500.http").read_bytes().decode().split("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}" in head
    assert "Retry-After: 1" in head


@pytest.mark.slow
@pytest.mark.integration
def test_pages_refusals_and_a_killed_replica(workspace, release_folder):
    with (
        start_background(workspace, release_folder, StoreConfig(), CONFIG) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        page = client.post("/v1/recommend", json=ASK)
        assert (page.status_code, len(page.json()["items"])) == (200, 7)
        assert client.post("/drain").status_code == 403
        answers, cut = many(service.url)
        assert not cut
        assert {answer.status_code for answer in answers} == {200, 503}
        assert Counter(answer.json().get("error") for answer in answers).keys() == {None, "overloaded"}
        os.kill(min(processes("ray::ServeReplica:pagewise:pages")), signal.SIGKILL)
        answers, cut = many(service.url)
        assert cut <= CALLERS  # HAProxy starts anew with the replicas that are left, once
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert all("application/json" in answer.headers["content-type"] for answer in answers)


def many(url: str) -> tuple[list[httpx.Response], int]:
    """Ask over connections of their own; return the answers, and how many connections were closed without one."""

    def ask(_: int) -> httpx.Response | None:
        try:
            return httpx.post(f"{url}/v1/recommend", json=ASK, timeout=60)
        except httpx.RemoteProtocolError:
            return None

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        found = list(pool.map(ask, range(96)))
    answers = [answer for answer in found if answer is not None]
    return answers, len(found) - len(answers)
