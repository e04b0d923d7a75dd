"""A tiny real release with its store, served in three ways: the core alone, an ASGI server in process, Ray Serve."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "models" / "recommend"))

from release_cases import make_genrec, make_release, make_workspace

from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace
from models.recommend.release import Release, load_release
from serving.cursors import Cursors
from serving.service import RecommendService

STORE = StoreConfig()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """12 items, 10 users with 5 of them each, a release without exploration, and a filled store."""
    root = tmp_path_factory.mktemp("serving")
    workspace = make_workspace(root / "workspace")
    make_release(workspace.local_path("releases"), workspace, make_genrec(workspace), epsilon=0.0, page_size=5)
    with open_store(STORE, workspace) as store:
        backfill(workspace, store, STORE)
    return workspace


@pytest.fixture(scope="session")
def release_folder(workspace: Workspace) -> Path:
    (manifest,) = workspace.local_path("releases").glob("*/manifest.json")
    return manifest.parent


@pytest.fixture(scope="session")
def next_release_folder(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another release of the same workspace, without GenRec."""
    releases = tmp_path_factory.mktemp("releases")
    return releases / make_release(releases, workspace, None).release_id


@pytest.fixture(scope="session")
def release(release_folder: Path) -> Release:
    return load_release(release_folder)


@pytest.fixture
def store(workspace: Workspace) -> Iterator[RedisStore]:
    with open_store(STORE, workspace) as opened:
        yield opened


@pytest.fixture
def cursors(store: RedisStore) -> Cursors:
    return Cursors(store.client, store.namespace, ttl_s=600)


@pytest.fixture
def service(release: Release, store: RedisStore, cursors: Cursors) -> RecommendService:
    return RecommendService(release, store, history_length=STORE.history_length, arm="champion", cursors=cursors)
