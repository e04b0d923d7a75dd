"""Pages of a page maker whose models are in other processes are those of one that has them all, number by number."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import serve
from stage_cases import make_full_release, make_full_workspace

from features.schemas import ITEMS
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace
from models.recommend.delta_changes import append
from models.recommend.eligibility import ItemMask
from models.recommend.release import load_release
from serving.api import FilterSpec, RecommendRequest
from serving.app import Served, build_application, build_stages
from serving.config import ServeConfig
from serving.pages import Answer
from serving.service import RecommendService
from serving.stage_names import STAGES, stage_name, stage_replicas
from serving.stages import PackedMask, Split, Stage

pytestmark = pytest.mark.integration

STORE = StoreConfig()
NOT_BY_THEMSELVES = {"deltas_s": 3600.0, "refresh_s": 3600.0}
NOW = 1_900_000_000.0
KITE = {"item_id": "n1", "title": "kite rope wind", "category": ["aisle0"], "brand": "nova", "price": 5.0}


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_a_mask_travels_and_items_that_the_sender_does_not_know_do_not_pass(allowed, more):
    packed = PackedMask.of(ItemMask(np.array(allowed)))
    assert packed.unpacked(len(allowed) + more).allowed_N.tolist() == allowed + [False] * more
    assert packed == PackedMask.of(ItemMask(np.array(allowed)))
    assert packed != PackedMask.of(ItemMask(~np.array(allowed)))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_full_workspace(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def release_folder(workspace: Workspace) -> Path:
    return make_full_release(workspace)


@pytest.fixture
def folder(release_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(release_folder, tmp_path / release_folder.name)


def service_of(folder: Path, store: RedisStore, split: Split | None = None) -> RecommendService:
    names = itertools.count()
    return RecommendService(
        load_release(folder),
        store,
        history_length=50,
        arm="champion",
        part_timeout_s=20.0,
        split=split,
        clock=lambda: NOW,
        id_factory=lambda: f"r{next(names)}",
    )


def split_of(folder: Path, store: RedisStore, config: ServeConfig) -> Split:
    """Start the stages in this process, as Ray Serve's local testing mode does, and return the way to them."""
    manifest = load_release(folder).manifest
    served = Served(
        release=folder, arm="champion", store_url=store.url, store=STORE, serve=config, folder=folder / "none"
    )
    threads = torch.get_num_threads()
    handles = {
        name: serve.run(stage, name=name, route_prefix=None, _local_testing_mode=True)
        for name, stage in build_stages(served).items()
    }
    torch.set_num_threads(threads)
    stages = {
        stage: Stage(handles[stage_name(stage, manifest.release_id)], replicas, 20.0)
        for stage, replicas in stage_replicas(config).items()
    }
    return Split(manifest.runs, stages)


def answers(service: RecommendService) -> list[Answer]:
    """Ask in batches of one, of some and of all, with and without filters; the last one is nobody known."""
    users = [f"u{number}" for number in range(10)]
    cheap = FilterSpec(max_price=7.0)
    batches = [
        [RecommendRequest(user_id="u3", page_size=5)],
        [RecommendRequest(user_id=user, page_size=4) for user in (*users, "nobody")],
        [RecommendRequest(user_id=user, filters=cheap if user > "u4" else None) for user in users],
    ]
    return [answer for batch in batches for answer in service.recommend(batch)]


def told(answer: Answer) -> tuple:
    """What a page says and what is logged of it, cursors left out."""
    return answer.page.model_dump(exclude={"next_cursor"}), answer.row


@pytest.mark.parametrize("stages", [("retrieval",), ("ranking",), ("retrieval", "ranking")], ids="+".join)
def test_pages_are_those_of_one_process_number_by_number(folder, store, stages):
    config = ServeConfig(**{f"{stage}_replicas": 1 for stage in stages}, **NOT_BY_THEMSELVES)
    whole, split = service_of(folder, store), service_of(folder, store, split_of(folder, store, config))
    kept = {*split.release.recommender.retrievers}
    assert kept == ({"transitions", "popular"} if "retrieval" in stages else {*whole.release.recommender.retrievers})
    assert (split.release.recommender.ranker is None) == ("ranking" in stages)
    pages, expected = answers(split), answers(whole)
    assert [told(page) for page in pages] == [told(page) for page in expected]
    assert {source for page in pages for item in page.page.items for source in item.parts} == {
        "genrec",
        "two_tower",
        "transitions",
        "popular",
        "ranker",
    }


def test_a_batch_is_shared_out_among_replicas(folder, store):
    config = ServeConfig(retrieval_replicas=3, ranking_replicas=2, **NOT_BY_THEMSELVES)
    whole, split = service_of(folder, store), service_of(folder, store, split_of(folder, store, config))
    for page, expected in zip(answers(split), answers(whole), strict=True):
        assert [item.item_id for item in page.page.items] == [item.item_id for item in expected.page.items]
        np.testing.assert_allclose(
            [item.score for item in page.page.items], [item.score for item in expected.page.items], rtol=1e-5
        )


def test_stages_take_deltas_before_they_answer_about_them(folder, store):
    split = split_of(folder, store, ServeConfig(retrieval_replicas=1, ranking_replicas=1, **NOT_BY_THEMSELVES))
    ahead, behind, whole = service_of(folder, store, split), service_of(folder, store, split), service_of(folder, store)
    append(folder, pa.Table.from_pylist([KITE], ITEMS))
    assert ahead.follow_deltas()
    assert whole.follow_deltas()
    assert [told(page) for page in answers(ahead)] == [told(page) for page in answers(whole)]
    asked = [RecommendRequest(user_id="u1", page_size=20)]
    for service, knows in ((ahead, True), (behind, False)):
        (answer,) = service.recommend(asked)
        assert ("n1" in [item.item_id for item in answer.page.items]) == knows
        assert answer.page.fallback is None


def test_only_stages_that_a_release_has_models_for_are_built(workspace, release_folder):
    plain = make_full_release(workspace, ("genrec",))
    config = ServeConfig(retrieval_replicas=2, ranking_replicas=1, challenger_share=0.5, request_timeout_s=3)
    served = Served(
        release=plain, arm="a", store_url="", store=STORE, serve=config, folder=plain, challenger=release_folder
    )
    wanted = (("retrieval", plain), ("retrieval", release_folder), ("ranking", release_folder))
    names = [stage_name(stage, folder.name) for stage, folder in wanted]
    stages = build_stages(served)
    assert sorted(stages) == sorted(names)
    retrieval = stages[names[0]]._bound_deployment
    assert (retrieval.num_replicas, retrieval.max_ongoing_requests, retrieval.max_queued_requests) == (2, 2, 8)
    assert retrieval.ray_actor_options["num_cpus"] == 1.0
    without = dataclasses.replace(served, challenger=None)
    assert [*build_stages(without)] == names[:1]
    assert [*build_application(without)._bound_deployment.init_args[1]] == names[:1]
    assert build_stages(dataclasses.replace(served, serve=ServeConfig())) == {}


@pytest.fixture
def store(workspace: Workspace) -> Iterator[RedisStore]:
    with open_store(STORE, workspace) as opened:
        yield opened


class Gone:
    """A stage whose replicas do not answer."""

    def __init__(self, error: Exception) -> None:
        self.retrieve = self.score = self
        self.error, self.cancelled = error, 0

    def remote(self, *arguments):
        return self

    def result(self, *, timeout_s):
        raise self.error

    def cancel(self):
        self.cancelled += 1


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("the replica died")], ids=["slow", "dead"])
def test_a_stage_that_does_not_answer_is_named_and_told_that_nobody_waits(folder, store, error):
    manifest = load_release(folder).manifest
    gone = Gone(error)
    split = Split(manifest.runs, {stage: Stage(gone, 2, 5.0) for stage in STAGES})
    requests = [RecommendRequest(user_id=f"u{user}", page_size=3) for user in range(4)]
    found = service_of(folder, store, split).recommend(requests)
    assert {answer.page.fallback for answer in found} == {"transitions+without_two_tower+without_ranker"}
    assert all(len(answer.page.items) == 3 for answer in found)
    assert gone.cancelled == 3 * 2  # three models, two replicas each


def test_whoever_makes_the_pages_lets_go_of_models_that_others_hold(folder, store):
    loaded = load_release(folder)
    split = Split(loaded.manifest.runs, {stage: Stage(Gone(TimeoutError()), 1, 5.0) for stage in STAGES})
    parts = [*loaded.recommender.retrievers.values(), loaded.recommender.ranker]
    held = {part.name: weakref.ref(part) for part in parts}
    service = RecommendService(loaded, store, history_length=50, arm="champion", split=split)
    del loaded, parts
    gc.collect()
    assert {name for name, part in held.items() if part() is not None} == {"transitions", "popular"}
    assert service.version().retrievers == ["genrec", "transitions", "two_tower", "popular"]
