"""The whole loop of the feature check with real parts: a store filled at night, events and pages by the stream, batch.

What the service read then equals what batch finds; a state that somebody overwrote does not.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_cases import DAY, HOUR, START, random_events
from recommend_cases import ListRetriever

from features.schemas import EVENTS, ITEMS
from features.semantic_ids import Catalogue
from features.store.backfill import backfill
from features.store.base import STATE, NewBlob
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.stream import records
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import StreamRecord
from features.workspace import Workspace
from models.recommend.config import RecommendConfig
from models.recommend.recommender import Recommender
from models.recommend.release import Release
from models.recommend.release_manifest import ReleaseManifest
from models.recommend.rules import CatalogueFacts
from pipelines.batch.config import BatchConfig, PagesConfig, SplitConfig
from pipelines.batch.feature_jobs import build_user_and_item_features
from pipelines.batch.jobs import build_features, build_sequences, validate
from pipelines.feature_check.config import FeatureCheckConfig
from pipelines.feature_check.job import check_features
from pipelines.streaming.run import run_stream
from serving.api import RecommendRequest
from serving.metrics import ServiceMetrics
from serving.page_log import PageLog
from serving.service import RecommendService

pytestmark = pytest.mark.integration

TODAY = START + 6 * DAY
ITEM_IDS = [f"i{n}" for n in range(12)]
CATALOGUE = Catalogue(ITEM_IDS, np.arange(12)[:, None], (12,))
BATCH = BatchConfig(split=SplitConfig(validation_days=1, test_days=1), shards=2)
STORE = StoreConfig(history_length=50)
USERS = [f"u{number}" for number in range(4)]
KINDS = ("click", "cart", "purchase", "dislike")


def run_daily(workspace: Workspace) -> None:
    for stage in (validate, build_features, build_user_and_item_features, build_sequences):
        stage(workspace, BATCH)


def take_up(workspace: Workspace) -> None:
    config = StreamConfig(until_empty=True, interval_s=0.001)
    run_stream(workspace, config, STORE, PagesConfig(), stopping=threading.Event())


def shop(folder: Path) -> Workspace:
    """Six days of events in files, and the daily job over them."""
    workspace = Workspace(folder)
    items = [{"item_id": item, "title": item, "category": ["shop", item], "price": 2.0} for item in ITEM_IDS]
    for name, rows, schema in (("events", random_events(3, 200), EVENTS), ("items", items, ITEMS)):
        path = workspace.local_path("tables", name, "rows.parquet")
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    run_daily(workspace)
    return workspace


class Service:
    """A service at moments that the test sets; everything that it reads is logged."""

    def __init__(self, workspace: Workspace, store: RedisStore) -> None:
        facts = CatalogueFacts(workspace.table("clean_items").read(), CATALOGUE)
        maker = Recommender(
            CATALOGUE,
            [ListRetriever("popular", list(range(12)))],
            RecommendConfig(page_size=3),
            facts,
        )
        named = {"release_id": "r", "generation": "g", "catalogue": CATALOGUE.fingerprint, "feature_schema": ""}
        manifest = ReleaseManifest(**named, code_version="0", retrievers=("popular",), runs={}, files={}, metrics={})
        self.release = Release(directory=Path("r"), manifest=manifest, recommender=maker)
        self.workspace, self.store = workspace, store
        self.stream = open_stream(StreamConfig(), store.url, STORE.namespace)

    def serve(self, now: int, users: list[str]) -> None:
        """Answer, and log the pages; on the stream they are, but nobody has taken them up yet."""
        log = PageLog(self.stream, ServiceMetrics())
        service = RecommendService(
            self.release,
            self.store,
            history_length=50,
            arm="a",
            page_log=log,
            feature_share=1.0,
            clock=lambda: now / 1000,
        )
        service.refresh_facts()
        for answer in service.recommend([RecommendRequest(user_id=user) for user in users]):
            service.log(answer.row)
        log.close(60)

    def accept(self, now: int, users: list[str]) -> None:
        """Let users act, and the stream take it up."""
        rows = [
            {"user_id": user, "item_id": ITEM_IDS[(now // HOUR + place) % 6], "event": KINDS[place], "timestamp": now}
            for place, user in enumerate(users)
        ]
        self.stream.append([StreamRecord.of_rows(records.EVENTS, rows)])
        take_up(self.workspace)


def test_what_was_read_is_what_batch_finds_unless_somebody_changed_it(tmp_path) -> None:
    workspace = shop(tmp_path)
    with open_store(STORE, workspace) as store:
        backfill(workspace, store, STORE)
        service = Service(workspace, store)
        service.serve(TODAY + HOUR, [*USERS, "a stranger"])
        service.accept(TODAY + 2 * HOUR, [*USERS[:2], "somebody new"])
        service.serve(TODAY + 2 * HOUR + 1000, [*USERS, "somebody new"])
        take_up(workspace)
        own, others = store.read_blobs([(STATE, "u2"), (STATE, "u0")])
        store.write_blobs([NewBlob(STATE, "u2", own.version, own.event_time, others.payload)])
        service.serve(TODAY + 7 * HOUR, ["u2"])
        take_up(workspace)
        service.stream.close()
    run_daily(workspace)
    report = check_features(workspace, FeatureCheckConfig(drift_alert=1e9), BATCH)
    assert report.day == "2024-03-07"
    assert (report.counts["pages.in"], report.counts["pages.current"]) == (11, 11)
    assert report.counts["items.in"] == report.counts["items.back_0"] == 33
    clicks = next(one for one in report.features if one.name == "last_clicks")
    assert (clicks.mismatch_rate, len(clicks.examples)) == (1 / 11, 1)
    for one in report.features:
        assert one.mismatch_rate in (0, 1 / 11), one.line()
        assert one.examples in ((), clicks.examples)
    assert {alert.split(":")[0] for alert in report.alerts} == {"mismatch"}
