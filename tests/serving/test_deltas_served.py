"""A service follows the catalogue deltas of its release; over HTTP it does so in test_application.py."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from features.schemas import ITEMS
from models.recommend.delta_changes import append, withdraw
from models.recommend.delta_files import deltas_folder
from models.recommend.release import load_release
from serving.api import FilterSpec, RecommendRequest
from serving.fallbacks import DEADLINE
from serving.service import RecommendService

KITE = {"item_id": "n1", "title": "kite rope wind", "category": ["aisle0"], "brand": "nova", "price": 5.0}
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
