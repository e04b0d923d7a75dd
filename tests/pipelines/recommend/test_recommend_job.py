"""Pages for all users, and that the service would have made the same ones."""

from __future__ import annotations

import dataclasses
import datetime
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from release_cases import DAY, ITEM_COUNT, commit, make_genrec, make_release, make_workspace

from features.columns import Columns
from features.definitions import ITEM, USER, feature_schemas, features_of, memories_of, state_layout
from features.events import Events, ItemKeys
from features.schemas import CLICK, ITEMS, PAGES, SEQUENCES, USERS
from features.states import pack_states
from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.redis_store import open_store
from features.workspace import MissingTableError, Workspace
from models.inputs.requests import request_columns
from models.recommend.delta_changes import append, withdraw
from models.recommend.delta_files import DeltaError, deltas_folder
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.recommender import Recommender
from models.recommend.release import Release, load_release
from pipelines.recommend import pages as pages_module
from pipelines.recommend.config import RecommendJobConfig
from pipelines.recommend.job import recommend
from pipelines.recommend.pages import request_id
from serving.api import RecommendRequest
from serving.service import RecommendService

pytestmark = pytest.mark.integration

HISTORY = 3
NEWEST = 4 * DAY + 9
STRANGER = "only in users"


class SensitiveRanker:
    """Scores by everything that requests and item features carry: a difference anywhere changes a score."""

    name = "ranker"

    def __init__(self, item_features: Columns | None = None) -> None:
        self.item_features = item_features

    def with_item_features(self, item_features: Columns) -> SensitiveRanker:
        return SensitiveRanker(item_features)

    def score(self, requests: RequestBatch, items_BK: np.ndarray) -> np.ndarray:
        columns = request_columns(requests)
        user_B = sum((np.nan_to_num(values) for values in columns.numbers.values()), np.zeros(len(requests)))
        for name, column in sorted(columns.ids.items()):
            weights = np.ones(len(column.hashes)) if column.weights is None else column.weights
            rows = np.repeat(np.arange(len(requests)), np.diff(column.offsets))
            user_B = user_B + np.bincount(rows, weights * (column.hashes % 97), len(requests)) * len(name)
        item_N = np.zeros(ITEM_COUNT + 1)  # with a new item
        if self.item_features is not None:
            for values in self.item_features.numbers.values():
                item_N[: len(values)] += np.nan_to_num(values)
        scores_BK = (user_B[:, None] * (items_BK + 1) + 13 * item_N[items_BK]) % 7.1
        return np.where(items_BK == NO_ITEM, -np.inf, scores_BK).astype(np.float32)


def add_features(workspace: Workspace) -> None:
    """Write attributes, states of the clicks in `sequences`, and item features; one user and one item without."""
    users = [{"user_id": f"u{n}", "attributes": [("plan", "gold" if n % 2 else "free")]} for n in range(1, 10)]
    users.append({"user_id": STRANGER, "attributes": [("plan", "free")]})
    users.append({"user_id": "u0", "attributes": None})
    commit(workspace, "clean_users", pa.Table.from_pylist(users, USERS))
    rows = workspace.table("sequences").read().to_pylist()
    rows = [row for row in rows if row["user_id"] != "u3"]
    names = sorted({row["user_id"] for row in rows})
    clicks = [
        (names.index(row["user_id"]), item, time)
        for row in rows
        for item, time in zip(row["items"], row["times"], strict=True)
    ]
    table = pa.table(
        {
            "item_id": [item for _, item, _ in clicks],
            "event": [CLICK] * len(clicks),
            "timestamp": pa.array([time for *_, time in clicks], SEQUENCES.field("times").type.value_type),
        }
    )
    keys = ItemKeys.of_items(workspace.table("clean_items").read())
    events = Events.of_rows(table, np.array([user for user, *_ in clicks]), keys)
    states = [memory.add(memory.empty(), events) for memory in memories_of(features_of(USER))]
    packed = pack_states(states, len(names), state_layout())
    moments = [max(row["times"][-1] for row in rows if row["user_id"] == name) for name in names]
    schema = feature_schemas()["user_states"]
    commit(workspace, "user_states", pa.table([names, pa.array(moments, schema.field(1).type), packed], schema=schema))
    number = next(feature.name for feature in features_of(ITEM) if feature.kind == "number")
    snapshots = [
        {"item_id": f"i{n:02d}", "as_of": day * DAY, number: float(n * day % 5)} for n in range(11) for day in (1, 2)
    ]
    commit(workspace, "item_features", pa.Table.from_pylist(snapshots, feature_schemas()["item_features"]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("recommend") / "workspace")
    add_features(workspace)
    return workspace


@pytest.fixture(scope="module")
def release(workspace) -> Release:
    releases = workspace.local_path("releases")
    run = make_genrec(workspace)
    manifest = make_release(releases, workspace, run, epsilon=0.3, temperature=0.2, page_size=4, ranker_weight=1.0)
    return load_release(releases / manifest.release_id)


@pytest.fixture
def ranked(release, monkeypatch) -> Release:
    """The release with a ranker that looks at everything."""
    base = release.recommender
    maker = Recommender(base.catalogue, list(base.retrievers.values()), base.config, base.facts, SensitiveRanker())
    ranked = dataclasses.replace(release, recommender=maker)
    pages_module.page_maker.cache_clear()
    monkeypatch.setattr(pages_module, "load_release", lambda folder: ranked)
    yield ranked
    pages_module.page_maker.cache_clear()


def rows_of(workspace: Workspace) -> dict[str, dict]:
    rows = workspace.table("recommendations").read().to_pylist()
    assert len({row["user_id"] for row in rows}) == len(rows)
    return {row["user_id"]: row for row in rows}


def run(workspace: Workspace, release: Path, **options):
    time = options.pop("time", None)
    return recommend(workspace, RecommendJobConfig(**options), release, history_length=HISTORY, time=time)


def test_every_user_gets_a_page(workspace, release):
    report = run(workspace, release.directory, shards=3)
    rows = rows_of(workspace)
    assert sorted(rows) == sorted([*(f"u{n}" for n in range(10)), STRANGER])
    assert report.counts == {"recommendations.out": 11, "users.in": 11}
    assert report.notes == ("1 pages from popular instead of the first choice",)
    page = rows["u0"]
    assert not {"i04", "i06", "i08"} & set(page["items"])  # the newest three of u0's items
    assert len(page["items"]) == len(page["scores"]) == len(page["sources"]) == 4
    assert page["propensities"] == [1.0] * 4
    assert (page["epsilon"], page["temperature"], page["policy"]) == (0.0, 0.0, "epsilon=0,temperature=0")
    assert (page["release"], page["fallback"]) == (release.manifest.release_id, None)
    assert (page["events"], page["event_times"], page["context"]) == ([], [], None)
    assert page["request_id"] == request_id(release.manifest.release_id, "u0", NEWEST + 1)
    assert page["timestamp"].timestamp() * 1000 == pytest.approx(NEWEST + 1)
    assert rows[STRANGER]["fallback"] == "popular"
    assert workspace.table("recommendations").schema == PAGES


@pytest.mark.parametrize("explore", [False, True])
def test_shards_and_batches_change_no_page(workspace, release, explore):
    run(workspace, release.directory, shards=1, explore=explore)
    first = rows_of(workspace)
    run(workspace, release.directory, shards=5, users_per_batch=2, explore=explore)
    assert rows_of(workspace) == first


def test_the_same_again_is_the_same_table(workspace, release):
    run(workspace, release.directory, explore=True)
    before = workspace.table("recommendations").manifest()
    run(workspace, release.directory, explore=True)
    assert workspace.table("recommendations").manifest() == before
    run(workspace, release.directory, explore=True, time=NEWEST + 5)
    assert workspace.table("recommendations").manifest().fingerprint != before.fingerprint


@pytest.fixture
def deltas(release) -> Iterator[None]:
    """A new item and a withdrawn one."""
    kite = {"item_id": "n1", "title": "kite rope wind", "category": ["aisle0"], "price": 5.0}
    append(release.directory, pa.Table.from_pylist([kite], ITEMS))
    withdraw(release.directory, ["i03"])
    yield
    shutil.rmtree(deltas_folder(release.directory))


def test_deltas_of_the_release_count(workspace, release, deltas):
    run(workspace, release.directory, page_size=50)
    rows = rows_of(workspace)
    assert {row["catalogue_version"] for row in rows.values()} == {f"{release.manifest.catalogue}+000002"}
    assert all("n1" in row["items"] and "i03" not in row["items"] for row in rows.values())
    damaged = deltas_folder(release.directory) / "000002" / "withdrawn.parquet"
    damaged.write_bytes(b"damaged")
    with pytest.raises(DeltaError, match=r"withdrawn.parquet has digest"):
        run(workspace, release.directory)


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("later_ms", [1, 40 * DAY])
def test_the_service_answers_with_the_rows_of_the_batch(workspace, ranked, explore, later_ms):
    check_batch_and_service(workspace, ranked, explore, NEWEST + later_ms)


def test_the_service_answers_with_the_rows_of_the_batch_after_deltas(workspace, ranked, deltas):
    check_batch_and_service(workspace, ranked, True, NEWEST + 1)
    assert any("n1" in row["candidates"] for row in rows_of(workspace).values())


def test_the_service_answers_with_the_rows_of_the_batch_by_all_rules(workspace, ranked, monkeypatch):
    base = ranked.recommender
    boosts = ({"category": "aisle1", "factor": 1.2}, {"items": ["i02"], "addend": 0.3})
    config = dataclasses.replace(base.config, max_per_category=3, diversity=0.3, boosts=boosts)
    maker = Recommender(base.catalogue, list(base.retrievers.values()), config, base.facts, base.ranker)
    ruled = dataclasses.replace(ranked, recommender=maker)
    monkeypatch.setattr(pages_module, "load_release", lambda folder: ruled)
    check_batch_and_service(workspace, ruled, True, NEWEST + 1)
    assert {row["policy"] for row in rows_of(workspace).values()} == {maker.policy.name}


def check_batch_and_service(workspace, ranked, explore, moment):
    run(workspace, ranked.directory, explore=explore, time=moment, page_size=5, shards=2, users_per_batch=4)
    rows = rows_of(workspace)
    config = StoreConfig(history_length=HISTORY)
    if not explore:
        greedy = dataclasses.replace(ranked.recommender.config, epsilon=0.0, temperature=0.0)
        base = ranked.recommender
        maker = Recommender(base.catalogue, list(base.retrievers.values()), greedy, base.facts, base.ranker)
        ranked = dataclasses.replace(ranked, recommender=maker)
    asked = sorted(rows, reverse=True)
    names = iter([rows[user]["request_id"] for user in asked])
    with open_store(config, workspace) as store:
        backfill(workspace, store, config)
        service = RecommendService(
            ranked,
            store,
            history_length=HISTORY,
            arm="champion",
            clock=lambda: moment / 1000,
            id_factory=lambda: next(names),
        )
        assert service.refresh_facts()
        answers = [
            answer
            for start in range(0, len(asked), 3)
            for answer in service.recommend(
                [RecommendRequest(user_id=user, page_size=5) for user in asked[start : start + 3]]
            )
        ]
    assert store.corrupted == 0
    for user, answer in zip(asked, answers, strict=True):
        row, logged = rows[user], answer.row
        assert answer.page.request_id == logged["request_id"] == row["request_id"]
        assert [item.item_id for item in answer.page.items] == logged["items"] == row["items"]
        assert [np.float32(item.score) for item in answer.page.items] == [np.float32(score) for score in row["scores"]]
        for name in sorted(set(logged) - {"scores", "arm", "timestamp", "filters", "context"}):
            assert logged[name] == row[name], name
    assert any(len(set(row["propensities"])) > 1 for row in rows.values()) == explore


def test_a_page_of_the_batch_can_be_made_again_from_its_row(workspace, ranked):
    run(workspace, ranked.directory, explore=True)
    policy = ranked.recommender.policy
    for row in rows_of(workspace).values():
        chosen = np.array([[row["candidates"].index(item) for item in row["items"]]])
        scores = np.array([row["candidate_scores"]], dtype=np.float32)
        log_P = policy.log_prob(scores, np.ones(scores.shape, bool), chosen)[0]
        np.testing.assert_allclose(np.exp(log_P), row["propensities"])


def test_a_moment_that_is_not_after_all_events_is_refused(workspace, release):
    moment = datetime.datetime.fromtimestamp(NEWEST / 1000, datetime.UTC).isoformat(timespec="milliseconds")
    moment = re.escape(moment)
    with pytest.raises(ValueError, match=f"time: expected later than the newest event, {moment}, got {moment}; users"):
        run(workspace, release.directory, time=NEWEST)


def test_what_is_missing_is_named(workspace, release, tmp_path):
    with pytest.raises(FileNotFoundError, match="no release in"):
        run(workspace, tmp_path)
    with pytest.raises(MissingTableError, match="table 'sequences' does not exist"):
        run(Workspace(tmp_path / "empty"), release.directory)
    with pytest.raises(ValueError, match="page_size: expected 1 to 50, got 51"):
        run(workspace, release.directory, page_size=51)
    with pytest.raises(ValueError, match=r"users_per_batch: expected at least 1, got 0; shards: .* got -1; page_size"):
        RecommendJobConfig(users_per_batch=0, shards=-1, page_size=0)


def test_a_workspace_without_features_and_users_is_enough(tmp_path, release):
    workspace = make_workspace(tmp_path / "bare")
    run(workspace, release.directory)
    assert sorted(rows_of(workspace)) == [f"u{n}" for n in range(10)]
