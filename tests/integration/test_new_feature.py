"""One more entry of `FEATURES` is all that a feature needs: it is there in training and in service, with equal values.

The first pages of a day, at moment T, are looked at twice: in training, by the feature tables of a workspace with all
events; in service, by a store that was filled at night, from the events before T, and requests at T.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from batch_cases import DAY, random_events
from recommend_cases import ListRetriever

from features import definitions
from features.columns import Columns
from features.definitions import ITEM, USER, Feature
from features.folds import CountOf
from features.memories import Counts
from features.schemas import CART, EVENT_CODE, EVENTS, ITEMS
from features.semantic_ids import Catalogue
from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.redis_store import open_store
from features.values import ItemSnapshots, page_columns
from features.workspace import Workspace
from models.recommend.config import RecommendConfig
from models.recommend.interface import RequestBatch
from models.recommend.recommender import Recommender
from models.recommend.release import Release
from models.recommend.release_manifest import ReleaseManifest
from models.recommend.requests import requests_from_sequences
from models.recommend.rules import CatalogueFacts
from pipelines.batch.config import BatchConfig, SplitConfig
from pipelines.batch.feature_jobs import build_user_and_item_features
from pipelines.batch.jobs import build_features, build_sequences, validate
from serving.api import RecommendRequest
from serving.service import RecommendService

pytestmark = pytest.mark.integration

NEW_OF_USERS = Feature(
    name="user_carts_3d",
    entity=USER,
    fold=CountOf(
        memory=Counts(codes=(EVENT_CODE[CART],), keep_ms=3 * DAY, bucket_ms=3_600_000),
        code=EVENT_CODE[CART],
    ),
    default=0.0,
)
NEW_OF_ITEMS = Feature(
    name="item_carts_3d",
    entity=ITEM,
    fold=CountOf(memory=Counts(codes=(EVENT_CODE[CART],), keep_ms=3 * DAY, bucket_ms=DAY), code=EVENT_CODE[CART]),
    default=0.0,
)
ITEM_IDS = [f"i{n}" for n in range(6)]
CATALOGUE = Catalogue(ITEM_IDS, np.arange(6)[:, None], (6,))
BATCH = BatchConfig(split=SplitConfig(validation_days=1, test_days=1), shards=2)
STORE = StoreConfig(history_length=50)


class WatchingRanker:
    """Keeps what it is given."""

    name = "ranker"

    def __init__(self) -> None:
        self.requests: RequestBatch | None = None
        self.item_features: Columns | None = None

    def with_item_features(self, item_features: Columns) -> WatchingRanker:
        self.item_features = item_features
        return self

    def score(self, requests: RequestBatch, items_BK: np.ndarray) -> np.ndarray:
        self.requests = requests
        return np.zeros(items_BK.shape, dtype=np.float32)


def build(root: Path, events: list[dict]) -> Workspace:
    """Run the batch stages on raw events."""
    workspace = Workspace(root)
    items = [
        {"item_id": item, "title": item, "category": ["shop", f"aisle{n % 2}"], "brand": f"b{n % 3}", "price": 1.0 + n}
        for n, item in enumerate(ITEM_IDS)
    ]
    for name, rows, schema in (("events", events, EVENTS), ("items", items, ITEMS)):
        path = workspace.local_path("tables", name, "rows.parquet")
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    for stage in (validate, build_features, build_user_and_item_features, build_sequences):
        stage(workspace, BATCH)
    return workspace


def served(workspace: Workspace, user_ids: list[str], time: int) -> tuple[Columns, Columns]:
    """Return the columns of requests of users at a moment, and the item features, as a ranker in service gets them."""
    ranker = WatchingRanker()
    facts = CatalogueFacts(workspace.table("clean_items").read(), CATALOGUE)
    popular = ListRetriever("popular", list(range(6)))
    recommender = Recommender(CATALOGUE, [popular], RecommendConfig(), facts, ranker)
    manifest = ReleaseManifest(
        release_id="r",
        generation="g",
        catalogue=CATALOGUE.fingerprint,
        feature_schema="",
        code_version="0",
        retrievers=("popular",),
        runs={},
        files={},
        metrics={},
    )
    release = Release(directory=Path("r"), manifest=manifest, recommender=recommender)
    with open_store(STORE, workspace) as store:
        backfill(workspace, store, STORE)
        service = RecommendService(release, store, history_length=50, arm="a", clock=lambda: time / 1000)
        service.refresh_facts()
        service.recommend([RecommendRequest(user_id=user) for user in user_ids])
        assert store.corrupted == 0
    return ranker.requests.columns, ranker.item_features


def assert_equal_columns(found: Columns, expected: Columns) -> None:
    for name, values in expected.numbers.items():
        np.testing.assert_array_equal(found.numbers[name], values, err_msg=name)
    for name, column in expected.ids.items():
        for part in ("offsets", "hashes", "weights"):
            np.testing.assert_array_equal(getattr(found.ids[name], part), getattr(column, part), err_msg=name)


@pytest.fixture
def new_features(monkeypatch) -> None:
    monkeypatch.setattr(definitions, "FEATURES", (*definitions.FEATURES, NEW_OF_USERS, NEW_OF_ITEMS))


def test_a_new_feature_is_the_same_in_training_and_in_service(new_features, tmp_path):
    events = random_events(3, 400, users=8)
    everything = build(tmp_path / "all", events)

    pages = everything.table("pages").read()
    moments = pages.column("timestamp").cast(pa.int64()).combine_chunks()
    time = pc.min(moments.filter(pc.greater_equal(moments, pc.max(moments).as_py() // DAY * DAY))).as_py()
    at_time = pages.filter(pc.equal(moments, time))
    page_ids, user_ids = at_time.column("request_id").to_pylist(), at_time.column("user_id").to_pylist()
    trained = page_columns(everything, page_ids)
    carts_before = [
        sum(
            row["user_id"] == user and row["event"] == CART and time - 3 * DAY <= row["timestamp"] < time
            for row in events
        )
        for user in user_ids
    ]
    assert max(carts_before) > 0
    assert trained.numbers[NEW_OF_USERS.name].tolist() == carts_before

    past = build(tmp_path / "past", [row for row in events if row["timestamp"] < time])
    of_users, of_items = served(past, user_ids, time)
    assert_equal_columns(of_users, trained)
    assert set(trained.numbers) | set(trained.ids) == {
        feature.name for feature in definitions.FEATURES if feature.entity == USER
    }
    snapshots = ItemSnapshots.load(everything, ITEM_IDS)
    trained_items = snapshots.at(np.arange(6), np.full(6, time))
    assert trained_items.numbers[NEW_OF_ITEMS.name].max() > 0
    assert_equal_columns(of_items, trained_items)

    cases = requests_from_sequences(everything, CATALOGUE, "test", max_history=5, every_page=True)
    assert NEW_OF_USERS.name in cases.requests.columns.numbers
