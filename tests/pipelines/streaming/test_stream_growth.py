"""Items of the stream in the champion's catalogue: appended once, tried again after a failure, and served."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import stream_world as world

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "recommend"))

from release_cases import make_release, make_workspace

from features.stream.config import StreamConfig
from features.stream.records import ITEMS, StreamRecord
from features.workspace import Workspace
from models.recommend.delta_files import delta_numbers
from models.recommend.deltas import CatalogueState, caught_up
from models.recommend.release import load_release
from pipelines.batch.config import PagesConfig
from pipelines.streaming.growth import CatalogueGrowth
from pipelines.streaming.metrics import StreamMetrics
from pipelines.streaming.run import run_stream

pytestmark = pytest.mark.integration
KITE = {"item_id": "n1", "title": "kite rope wind", "category": ["aisle0"], "brand": "nova", "price": 5.0}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("release")
    workspace = make_workspace(root / "workspace")
    return root / "releases" / make_release(root / "releases", workspace, None).release_id


def stream_items(
    folder: Path, redis_url: str, namespace: str, *rows: dict, champion=lambda: nullcontext(None)
) -> list[str]:
    world.append(redis_url, namespace, [StreamRecord.of_rows(ITEMS, rows)])
    said: list[str] = []
    run_stream(
        Workspace(folder),
        StreamConfig(until_empty=True, interval_s=0.001),
        world.store_config(redis_url, namespace),
        PagesConfig(),
        stopping=threading.Event(),
        champion=champion,
        say=said.append,
        lease_s=60,
    )
    return said


def test_a_streamed_item_is_in_the_catalogue_that_is_served(release, tmp_path, redis_url) -> None:
    rows = [{**KITE, "title": "kite"}, KITE]
    said = stream_items(tmp_path, redis_url, "growth", *rows, champion=lambda: nullcontext(release))
    assert any("delta 1: 1 items appended, 0 changed" in line for line in said)
    state, error = caught_up(CatalogueState.of(load_release(release)))
    assert error is None
    number = state.recommender.catalogue.item_ids.to_pylist().index("n1")
    assert state.recommender.facts.table["title"][number].as_py() == "kite rope wind"
    assert stream_items(tmp_path, redis_url, "growth", KITE, champion=lambda: nullcontext(release)) == []
    assert delta_numbers(release) == [1]


def test_items_wait_for_a_champion(tmp_path, redis_url) -> None:
    assert stream_items(tmp_path, redis_url, "waiting", KITE) == []
    metrics = StreamMetrics()
    asked = threading.Event()

    @contextmanager
    def broken():
        asked.set()
        raise FileNotFoundError("the release is gone")
        yield

    said: list[str] = []
    growth = CatalogueGrowth(Workspace(tmp_path), broken, metrics, said.append)
    growth.wake()
    assert asked.wait(60)
    growth.close()
    assert {*said} == {"items of the stream could not be appended to the champion's catalogue: the release is gone"}
    assert metrics.append_failures._value.get() == len(said)


def test_a_stream_that_fails_does_not_wait_for_the_catalogue(tmp_path, redis_url) -> None:
    assert stream_items(tmp_path, redis_url, "failing", KITE) == []
    asked, answered, times = threading.Event(), threading.Event(), []

    @contextmanager
    def slow():
        times.append(1)
        asked.set()
        assert answered.wait(60)
        yield None

    growth = CatalogueGrowth(Workspace(tmp_path), slow, StreamMetrics(), lambda line: None)
    growth.wake()
    assert asked.wait(60)
    growth.close(finish=False)  # returns while the catalogue is still being asked for
    assert growth._thread.is_alive()
    answered.set()
    growth._thread.join(60)
    assert times == [1]
