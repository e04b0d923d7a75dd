"""The whole service over HTTP: Ray Serve, a real release, a real Redis."""

from __future__ import annotations

import concurrent.futures
import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pyarrow as pa
import pytest
from serving_processes import RAY, processes
from told_metrics import total

from features.schemas import ITEMS
from features.store.base import StoreUnavailableError
from features.store.config import StoreConfig
from features.workspace import Workspace
from models.recommend.delta_changes import append, withdraw
from models.recommend.delta_files import deltas_folder
from serving.config import ServeConfig
from serving.run import ServiceError, start_background

pytestmark = pytest.mark.integration

# batches wait, so that requests are in flight for long enough to be counted
CONFIG = ServeConfig(port=0, max_batch=8, max_in_flight=8, batch_wait_ms=200, request_timeout_s=60, deltas_s=0.1)
Answer = TypeVar("Answer")
KITE = {"item_id": "n1", "title": "kite rope wind", "category": ["aisle0"], "brand": "nova", "price": 5.0}
BOARD = {**KITE, "item_id": "n2", "title": "puzzle board dice"}


@pytest.fixture(scope="module")
def served_folder(release_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of this module's own, for deltas."""
    return shutil.copytree(release_folder, tmp_path_factory.mktemp("served") / release_folder.name)


@pytest.fixture(scope="module")
def client(workspace: Workspace, served_folder: Path) -> Iterator[httpx.Client]:
    before = processes(*RAY)
    with (
        start_background(workspace, served_folder, StoreConfig(), CONFIG) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        yield client
        with pytest.raises(ServiceError, match="this process runs Ray already"):
            start_background(workspace, served_folder, StoreConfig(), CONFIG)
    service.stop()
    assert processes(*RAY) - before == set()
    assert processes(str(workspace.local_path("store"))) == set()


def test_known_user_over_http(client):
    response = client.post("/v1/recommend", json={"user_id": "u0", "page_size": 7})
    items = [item["item_id"] for item in response.json()["items"]]
    assert response.status_code == 200
    assert len(set(items)) == 7
    assert not set(items) & {"i00", "i02", "i04", "i06", "i08"}  # what u0 has seen
    assert response.json()["fallback"] is None
    assert response.json()["arm"] == "champion"


def test_the_next_page_and_events_over_http(client):
    first = client.post("/v1/recommend", json={"user_id": "u1", "page_size": 2}).json()
    following = {"user_id": "u1", "cursor": first["next_cursor"]}
    second = client.post("/v1/recommend", json=following).json()
    shown = [{item["item_id"] for item in page["items"]} for page in (first, second)]
    assert [len(items) for items in shown] == [2, 2]
    assert not shown[0] & shown[1]
    assert client.post("/v1/recommend", json=following).json() == second
    assert client.post("/v1/recommend", json={**following, "cursor": "x"}).status_code == 410
    event = {"user_id": "u1", "item_id": "i01", "event": "click", "timestamp": "2026-01-01"}
    assert client.post("/v1/events", json={"events": [event, {}]}).json()["accepted"] == 1
    assert len(client.get("/v1/users/u1?limit=3").json()["history"]) == 3


def test_unknown_user_over_http(client):
    answer = client.post("/v1/recommend", json={"user_id": "nobody", "page_size": 2}).json()
    assert [item["item_id"] for item in answer["items"]] == ["i11", "i10"]
    assert answer["fallback"] == "popular"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "bad_json"),
        (b"{}", 422, "invalid_request"),
        (b'{"user_id":"u0","page_size":51}', 422, "invalid_request"),
    ],
)
def test_bad_requests_over_http(client, body, status, error):
    response = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert response.json()["detail"]


def test_similar_over_http(client):
    assert client.get("/v1/items/i00/similar?k=1").json()["items"][0]["item_id"] == "i02"
    assert client.get("/v1/items/zz/similar").status_code == 404


def test_operations_over_http(client, release):
    assert client.get("/health").status_code == 200
    assert client.get("/ready").json()["release"] == release.manifest.release_id
    assert client.get("/version").json()["release"] == release.manifest.release_id
    assert client.get("/openapi.json").status_code == 200
    # item facts are taken from the store at the start: the newest event is on day 4, of user 9
    assert "pagewise_store_newest_event_time_seconds 345600.009" in client.get("/metrics").text


def test_concurrent_requests_are_answered_in_batches(client):
    def totals() -> tuple[float, float]:
        text = client.get("/metrics").text
        found = dict(re.findall(r"^pagewise_batch_size_(count|sum) (\S+)$", text, re.MULTILINE))
        return float(found["count"]), float(found["sum"])

    before = totals()
    # the next request of a caller may come before the gate has counted the last one out: half of what it lets in
    with concurrent.futures.ThreadPoolExecutor(CONFIG.max_batch // 2) as pool:
        asked = [pool.submit(client.post, "/v1/recommend", json={"user_id": f"u{n % 10}"}) for n in range(32)]
        assert {future.result().status_code for future in asked} == {200}
    after = totals()
    assert after[1] - before[1] == 32
    assert after[0] - before[0] < 32


def test_what_the_service_cannot_take_is_refused_in_json(client):
    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/recommend", json={"user_id": "u0"}), range(72)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert (answer.json()["error"], answer.headers["retry-after"]) == ("overloaded", "1")
    assert client.post("/v1/recommend", json={"user_id": "u0"}).status_code == 200
    assert total(client, 'pagewise_refused_total{reason="overloaded"}') == statuses[503]


def test_it_follows_the_deltas_of_its_release(client, served_folder, tmp_path):
    nova = {"user_id": "u0", "page_size": 20, "filters": {"brand": "nova"}}
    anything = {"user_id": "nobody", "page_size": 20}

    def ask(body: dict) -> dict:
        response = client.post("/v1/recommend", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    assert ask(nova)["items"] == []
    append(served_folder, items(KITE))
    answer = _until(lambda: ask(nova), lambda answer: answer["items"])
    assert ([item["item_id"] for item in answer["items"]], answer["delta"]) == (["n1"], 1)

    withdraw(served_folder, ["n1", "i11"])
    answer = _until(lambda: ask(anything), lambda answer: answer["delta"] == 2)
    assert not {"n1", "i11"} & {item["item_id"] for item in answer["items"]}
    assert ask(nova)["items"] == []

    aside = shutil.copytree(served_folder.parent, tmp_path / "releases") / served_folder.name
    append(aside, items(BOARD))
    (deltas_folder(aside) / "000003" / "items.parquet").write_bytes(b"damaged")
    (deltas_folder(aside) / "000003").rename(deltas_folder(served_folder) / "000003")
    version = _until(lambda: client.get("/version").json(), lambda version: version["delta_refused"])
    assert (version["delta"], "items.parquet has digest" in version["delta_refused"]) == (2, True)
    assert ask(anything)["items"]
    assert client.get("/ready").status_code == 200


def test_a_draining_service_says_so(client):
    """Comes after all others that ask it for pages: there is no way back."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        inside = [pool.submit(client.post, "/v1/recommend", json={"user_id": "u0"}) for _ in range(2)]
        _until(lambda: total(client, "pagewise_in_flight"), lambda inside: inside == 2)
        assert client.post("/drain").json() == {"status": "draining"}
        for method, path in (("POST", "/v1/recommend"), ("GET", "/ready")):
            answer = client.request(method, path, json={"user_id": "u0"})
            assert (answer.status_code, answer.json()["error"]) == (503, "draining")
            assert answer.headers["retry-after"] == "5"
        assert [future.result().status_code for future in inside] == [200, 200]
    assert client.get("/health").status_code == 200


def items(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ITEMS)


def _until(ask: Callable[[], Answer], fits: Callable[[Answer], object]) -> Answer:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = ask()
        if fits(answer):
            return answer
    raise AssertionError(f"not within a minute; the last answer: {answer}")


def test_taken_port_says_so(workspace, release_folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}: .*set serve.port"):
            start_background(workspace, release_folder, StoreConfig(), ServeConfig(port=port))


def test_missing_release_says_where(workspace, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no release in {tmp_path}"):
        start_background(workspace, tmp_path, StoreConfig(), CONFIG)


def test_store_that_does_not_answer_is_found_before_ray_starts(workspace, release_folder):
    config = StoreConfig(url="redis://127.0.0.1:1", timeout_s=0.2)
    with pytest.raises(StoreUnavailableError, match=r"redis://127\.0\.0\.1:1 does not answer"):
        start_background(workspace, release_folder, config, CONFIG)
