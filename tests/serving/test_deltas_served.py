"""A running service follows the catalogue deltas of its release: the core alone, then Ray Serve over HTTP."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from features.schemas import ITEMS
from features.store.config import StoreConfig
from features.workspace import Workspace
from models.recommend.delta_changes import append, withdraw
from models.recommend.delta_files import deltas_folder
from models.recommend.release import load_release
from serving.api import FilterSpec, RecommendRequest
from serving.config import ServeConfig
from serving.fallbacks import DEADLINE
from serving.run import start_background
from serving.service import RecommendService

KITE = {"item_id": "n1", "title": "kite rope wind", "category": ["aisle0"], "brand": "nova", "price": 5.0}
BOARD = {**KITE, "item_id": "n2", "title": "puzzle board dice"}
NOVA = FilterSpec(brand="nova")


def items(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ITEMS)


@pytest.fixture
def folder(release_folder, tmp_path) -> Path:
    return shutil.copytree(release_folder, tmp_path / release_folder.name)


@pytest.fixture
def service(folder, store) -> RecommendService:
    return RecommendService(load_release(folder), store, history_length=10, arm="champion")


def page(service: RecommendService, user_id: str, filters: FilterSpec | None = None) -> list[str]:
    (answer,) = service.recommend([RecommendRequest(user_id=user_id, page_size=20, filters=filters)])
    return [item.item_id for item in answer.page.items]


def test_deltas_are_followed_and_facts_of_the_store_do_not_undo_them(service, folder):
    assert not service.follow_deltas()
    append(folder, items(KITE))
    withdraw(folder, ["i11"])
    assert service.follow_deltas()
    assert not service.follow_deltas()
    for _ in range(2):
        assert page(service, "u1", NOVA) == page(service, "nobody", NOVA) == ["n1"]
        assert "i11" not in page(service, "nobody")
        (first, *_) = service.fallback([RecommendRequest(user_id="nobody", page_size=1)], DEADLINE)[0].page.items
        assert first.item_id == "i10"
        assert "i11" not in [item.item_id for item in service.similar("i09", 5).items]
        service.refresh_facts()
    assert service.version().delta == service.similar("i09", 5).delta == 2
    assert service.version().items == 13
    assert b'pagewise_catalogue_delta{arm="champion"} 2.0' in service.metrics.text()


def test_a_service_starts_with_the_deltas_there_are(service, folder, store):
    withdraw(folder, ["i11"])
    again = RecommendService(load_release(folder), store, history_length=10, arm="champion")
    (answer,) = again.recommend([RecommendRequest(user_id="nobody", page_size=1)])
    assert (answer.page.items[0].item_id, answer.page.delta) == ("i10", 1)


def test_a_damaged_delta_is_refused_once_and_taken_when_it_is_mended(service, folder, caplog):
    append(folder, items(KITE))
    file = deltas_folder(folder) / "000001" / "codes.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    before = page(service, "u0")
    with caplog.at_level(logging.ERROR, logger="serving.service"):
        assert not service.follow_deltas()
        assert not service.follow_deltas()
    assert len(caplog.records) == 1
    assert "codes.parquet has digest" in caplog.text
    assert page(service, "u0") == before
    assert "codes.parquet has digest" in service.version().delta_refused
    assert b'pagewise_catalogue_delta_refused{arm="champion"} 1.0' in service.metrics.text()
    file.write_bytes(whole)
    assert service.follow_deltas()
    assert page(service, "nobody", NOVA) == ["n1"]
    assert service.version().delta_refused is None


@pytest.fixture
def client(workspace: Workspace, folder: Path) -> Iterator[httpx.Client]:
    config = ServeConfig(port=0, request_timeout_s=60, deltas_s=0.1)
    with (
        start_background(workspace, folder, StoreConfig(), config) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        yield client


@pytest.mark.integration
def test_a_running_service_follows_over_http(client, folder, tmp_path_factory):
    nova = {"user_id": "u0", "page_size": 20, "filters": {"brand": "nova"}}
    anything = {"user_id": "nobody", "page_size": 20}

    def ask(body: dict) -> dict:
        response = client.post("/v1/recommend", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    assert ask(nova)["items"] == []
    append(folder, items(KITE))
    answer = _until(lambda: ask(nova), lambda answer: answer["items"])
    assert ([item["item_id"] for item in answer["items"]], answer["delta"]) == (["n1"], 1)

    withdraw(folder, ["n1", "i11"])
    answer = _until(lambda: ask(anything), lambda answer: answer["delta"] == 2)
    assert not {"n1", "i11"} & {item["item_id"] for item in answer["items"]}
    assert ask(nova)["items"] == []

    aside = shutil.copytree(folder.parent, tmp_path_factory.mktemp("aside") / "releases") / folder.name
    append(aside, items(BOARD))
    (deltas_folder(aside) / "000003" / "items.parquet").write_bytes(b"damaged")
    (deltas_folder(aside) / "000003").rename(deltas_folder(folder) / "000003")
    version = _until(lambda: client.get("/version").json(), lambda version: version["delta_refused"])
    assert (version["delta"], "items.parquet has digest" in version["delta_refused"]) == (2, True)
    assert ask(anything)["items"]
    assert client.get("/ready").status_code == 200


def _until(ask: Callable[[], dict], fits: Callable[[dict], object]) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = ask()
        if fits(answer):
            return answer
    raise AssertionError(f"not within a minute; the last answer: {answer}")
