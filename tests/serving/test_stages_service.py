"""The split service over HTTP: Ray Serve with a process for every stage, killed, swapped, given a broken release."""

from __future__ import annotations

import itertools
import json
import os
import shutil
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
from stage_cases import make_full_release, make_full_workspace

from features.store.config import StoreConfig
from features.store.redis_store import open_store
from features.workspace import Workspace
from models.recommend.release import load_release
from serving.api import RecommendRequest
from serving.config import ServeConfig
from serving.pages import Answer
from serving.run import RunningService, start_background
from serving.service import RecommendService
from serving.stage_names import stage_name
from serving.stages import Split, Stage
from serving.stages_deployment import APPLICATION, ServiceError

pytestmark = [pytest.mark.slow, pytest.mark.integration]

STORE = StoreConfig()
CONFIG = ServeConfig(
    port=0,
    request_timeout_s=60,
    part_timeout_s=3,  # less than a process takes to start
    retrieval_replicas=1,
    ranking_replicas=1,
    stage_cpus=0.5,
    challenger_share=0.5,
)
WITHOUT_RETRIEVAL = "transitions+without_two_tower"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_full_workspace(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def release_folder(workspace: Workspace) -> Path:
    return make_full_release(workspace)


@pytest.fixture(scope="module")
def service(workspace: Workspace, release_folder: Path) -> Iterator[RunningService]:
    with start_background(workspace, release_folder, STORE, CONFIG) as service:
        yield service
    assert not any(processes(f"ServeReplica:{stage}-{service.release}") for stage in ("retrieval", "ranking"))


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=90) as client:
        yield client


def test_pages_over_real_processes_are_those_of_one_process_number_by_number(workspace, service, release_folder):
    """Items, scores, parts, candidates and propensities: everything that is said and logged."""
    manifest = load_release(release_folder).manifest
    handles = {
        stage: serve.get_app_handle(stage_name(stage, manifest.release_id)) for stage in ("retrieval", "ranking")
    }
    split = Split(manifest.runs, {stage: Stage(handle, 1, 60.0) for stage, handle in handles.items()})
    requests = [RecommendRequest(user_id=f"u{number}", page_size=4) for number in (*range(10), 77)]

    def told(split: Split | None) -> list[tuple]:
        names = itertools.count()
        made = RecommendService(
            load_release(release_folder),
            store,
            history_length=50,
            arm="champion",
            split=split,
            clock=lambda: 1_900_000_000.0,
            id_factory=lambda: f"r{next(names)}",
        )
        return [(answer.page, answer.row) for answer in made.recommend(requests) if isinstance(answer, Answer)]

    with open_store(STORE, workspace) as store:
        found, expected = told(split), told(None)
    assert len(found) == 11
    assert found == expected
    assert {page.fallback for page, _ in found[:10]} == {None}


def test_stages_stand_beside_the_pages(client, release_folder):
    assert ask(client)["fallback"] is None
    assert {*serve.status().applications} == {APPLICATION, *stages_of(release_folder)}


def test_without_a_killed_stage_pages_say_so_until_it_is_back(client, release_folder):
    name = f"ray::ServeReplica:{stage_name('retrieval', release_folder.name)}"
    with Load(client) as load:
        (killed,) = processes(name)
        os.kill(killed, signal.SIGKILL)
        until(lambda: load.fallbacks[WITHOUT_RETRIEVAL])
        until(lambda: processes(name) - {killed})
        until(lambda: ask(client)["fallback"] is None)
    assert load.statuses.keys() == {200}
    # GenRec and the two-tower model rest, and are asked again, each for itself
    assert load.fallbacks.keys() <= {None, WITHOUT_RETRIEVAL, "transitions", "without_two_tower"}


def test_a_swap_under_load_loses_nothing_and_the_old_stages_go(client, service, workspace, release_folder):
    other = make_full_release(workspace, ("genrec", "ranker"))
    with Load(client) as load:
        service.swap(other)
        until(lambda: ask(client)["release"] == other.name)
    assert load.statuses.keys() == {200}
    assert load.fallbacks.keys() == {None}
    assert load.releases.keys() == {release_folder.name, other.name}
    assert {*serve.status().applications} == {APPLICATION, *stages_of(other)}


def test_a_release_whose_stages_cannot_be_loaded_changes_nothing(client, service, workspace, tmp_path):
    served, running = service.release, {*serve.status().applications}
    broken = of_other_contracts(make_full_release(workspace, ("two_tower",)), tmp_path)
    with pytest.raises(ServiceError, match=r"retrieval-\w+ could not be served: .*written for feature contracts 0123"):
        service.swap(broken)
    assert {*serve.status().applications} == running
    assert ask(client)["release"] == service.release == served


def test_a_challenger_has_stages_of_its_own_and_one_that_cannot_be_loaded_leaves_the_champion(
    client, service, workspace, release_folder, tmp_path
):
    challenger = make_full_release(workspace, ("genrec", "two_tower"))
    broken = of_other_contracts(challenger, tmp_path)
    users = [f"u{number}" for number in range(10)]
    service.swap(release_folder, broken)
    assert {ask(client, user)["arm"] for user in users} == {"champion"}
    assert {*serve.status().applications} == {APPLICATION, *stages_of(release_folder)}
    service.swap(release_folder, challenger)
    own = stage_name("retrieval", challenger.name)
    assert {*serve.status().applications} == {APPLICATION, *stages_of(release_folder), own}
    pages = [ask(client, user) for user in users]
    assert {(page["arm"], page["release"], page["fallback"]) for page in pages} == {
        ("champion", release_folder.name, None),
        ("challenger", challenger.name, None),
    }


def of_other_contracts(release: Path, folder: Path) -> Path:
    """Copy a release whose files are whole, but which this code must not load."""
    copied = shutil.copytree(release, folder / release.name)
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "feature_schema": "0123"}))
    return copied


def stages_of(release: Path) -> set[str]:
    return {stage_name(stage, release.name) for stage in ("retrieval", "ranking")}


def ask(client: httpx.Client, user: str = "u1") -> dict:
    return client.post("/v1/recommend", json={"user_id": user, "page_size": 3}).json()


class Load:
    """Two callers who ask without pause."""

    def __init__(self, client: httpx.Client) -> None:
        self.statuses: Counter[int] = Counter()
        self.fallbacks: Counter[str | None] = Counter()
        self.releases: Counter[str] = Counter()
        self._client, self._enough = client, threading.Event()
        self._callers = [threading.Thread(target=self._ask, args=[user]) for user in ("u2", "u3")]

    def __enter__(self) -> Load:
        for caller in self._callers:
            caller.start()
        until(lambda: sum(self.statuses.values()) > 4)
        return self

    def __exit__(self, *exception: object) -> None:
        self._enough.set()
        for caller in self._callers:
            caller.join()

    def _ask(self, user: str) -> None:
        while not self._enough.is_set():
            answer = self._client.post("/v1/recommend", json={"user_id": user, "page_size": 3})
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                self.fallbacks[answer.json()["fallback"]] += 1
                self.releases[answer.json()["release"]] += 1


def until(fits: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if fits():
            return
        time.sleep(0.05)
    raise AssertionError("not within two minutes")
