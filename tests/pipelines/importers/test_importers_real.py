"""The real files, where they are: counts as their publishers state them."""

import pyarrow.compute as pc
import pytest

from features.workspace import Workspace
from pipelines.importers import import_dataset

pytestmark = pytest.mark.integration


@pytest.fixture
def real_import(real_data, tmp_path):
    def run(name, source):
        if not (real_data / source).exists():
            pytest.skip(f"PAGEWISE_DATA has no {source}")
        workspace = Workspace(tmp_path / "workspace")
        return import_dataset(name, real_data / source, workspace), workspace

    return run


def distinct(workspace, column):
    return workspace.table("events").read([column])[column].unique().drop_null()


def test_beauty(real_import):
    report, workspace = real_import("s3rec", "amazon14_s3rec/Beauty.txt.gz")
    assert report.counts == {"events.in": 198_502, "events.out": 198_502, "items.in": 12_101, "items.out": 12_101}
    assert len(distinct(workspace, "user_id")) == 22_363


def test_lastfm(real_import):
    report, workspace = real_import("s3rec", "amazon14_s3rec/LastFM.txt.gz")
    assert report.counts["events.out"] == 52_551
    assert (len(distinct(workspace, "user_id")), report.counts["items.out"]) == (1_090, 3_646)


def test_online_retail(real_import):
    report, workspace = real_import("online-retail", "online_retail_uci")
    assert report.counts["events.in"] == 541_909
    assert report.counts["events.dropped.cancellation"] == 9_288
    dropped = sum(count for key, count in report.counts.items() if key.startswith("events.dropped."))
    assert report.counts["events.out"] == 541_909 - dropped == 387_841
    assert workspace.table("import_rejects").manifest().rows == dropped - report.counts["events.dropped.merged"]


def test_rees46(real_import):
    report, _ = real_import("rees46", "rees46_2019oct_slice")
    assert report.counts["events.in"] == 17_435
    assert report.counts["events.dropped.malformed"] == 1  # the cut last line, a view
    assert report.events == {"click": 17_056 - 1, "cart": 165, "purchase": 214}
    assert report.counts["items.out"] == 6_493


def test_mind(real_import):
    report, workspace = real_import("mind", "mind_small_sample")
    assert report.events["impression"] == 189_359
    events = workspace.table("events").read(["event", "context", "request_id"]).to_pylist()
    clicks = [row for row in events if row["event"] == "click" and not row["context"]]
    assert len(clicks) == 7_542
    assert len({row["request_id"] for row in events if not row["context"]}) == 5_000
    assert len(distinct(workspace, "user_id")) == 4_637
    assert report.counts["items.out"] == 2_000


def test_movielens(real_import):
    report, workspace = real_import("movielens", "movielens")
    assert {table: report.counts[f"{table}.out"] for table in ("events", "items", "users")} == {
        "events": 100_000,
        "items": 1_682,
        "users": 943,
    }
    assert len(distinct(workspace, "item_id")) == 1_682


def test_retailrocket(real_import):
    report, _ = real_import("retailrocket", "retailrocket_multibehavior")
    assert report.events == {"click": 75_374, "cart": 12_456, "purchase": 9_551}
    assert report.counts["items.out"] == 29_905


def test_open_bandit(real_import):
    report, workspace = real_import("open-bandit", "open_bandit_sample")
    assert report.counts["served_pages.out"] == 20_000
    assert report.counts["items.out"] == 34
    pages = workspace.table("served_pages").read(["request_id", "policy", "propensities"])
    policy = dict(zip(pages["request_id"].to_pylist(), pages["policy"].to_pylist(), strict=True))
    events = workspace.table("events").read(["event", "request_id"]).to_pylist()
    clicks = [policy[row["request_id"]] for row in events if row["event"] == "click"]
    assert (clicks.count("random"), clicks.count("bts")) == (46, 69)
    uniform = pages.filter(pc.equal(pages["policy"], "random"))["propensities"].to_pylist()
    assert uniform == [[1 / 34]] * 10_000
