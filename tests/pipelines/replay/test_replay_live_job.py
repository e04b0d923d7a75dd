from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schemas import PAGES
from features.workspace import Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.replay.config import ReplayConfig
from pipelines.replay.live_job import replay_live
from pipelines.replay.publishing import publish
from pipelines.replay.report_html import report_html

pytestmark = pytest.mark.integration

CONFIG = ReplayConfig(attribution_hours=0.0)
USERS, BEGINS = 1200, 3 * DAY_MS


def pages(lift: float, seed: int = 0) -> list[dict]:
    """Six pages per user, three of them before the split; a user's taste shows before and after."""
    rng = np.random.default_rng(seed)
    taste = rng.beta(0.3, 0.3, USERS)
    made = []
    for number in range(6 * USERS):
        user, late = number % USERS, number >= 3 * USERS
        arm = "challenger" if user % 2 else "champion"
        chance = 0.6 * taste[user] + (lift if late and arm == "challenger" else 0.0)
        made.append(
            {
                "request_id": f"r{number}",
                "user_id": f"u{user}",
                "timestamp": (BEGINS if late else 0) + number,
                "arm": arm if late else "champion",
                "release": "new" if late and arm == "challenger" else "old",
                "items": ["a", "b"],
                "events": ["click" if rng.random() < chance else "impression", "impression"],
                "event_times": [(BEGINS if late else 0) + number] * 2,
            }
        )
    return made


def written(folder: Path, rows: list[dict], files: int) -> ReplayConfig:
    folder.mkdir()
    for number in range(files):
        part = pa.Table.from_pylist(rows[number::files], pa.schema([PAGES.field(name) for name in rows[0]]))
        pq.write_table(part, folder / f"{number}.parquet")
    return ReplayConfig(attribution_hours=0.0, logs=str(folder))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def test_a_better_arm_is_shipped_and_the_time_before_helps(workspace, tmp_path):
    report = replay_live(workspace, written(tmp_path / "logs", pages(lift=0.25), 3), challenger_share=0.5)
    assert report.verdict.verdict == "ship"
    assert (report.question.champion.release, report.question.challenger.release) == ("old", "new")
    assert (report.question.pages, report.question.users) == (6 * USERS, USERS)
    assert report.question.counted == 3 * USERS - 1  # the split begins with the challenger's first page
    means, cuped = report.estimates
    assert cuped.se < 0.95 * means.se
    assert cuped.difference == pytest.approx(0.25, abs=3 * cuped.se)
    lines = report.lines()
    assert lines[0] == "verdict: ship"
    assert any("sample_ratio" in line for line in lines)
    document = report_html(report)
    assert "always valid" in document
    assert "Weights and propensities" not in document
    assert publish(report, workspace, None)[0].startswith("MLflow: ")
    assert {path.name for path in Path(report.folder).iterdir()} == {"report.html", "report.json", "verdict.json"}


def test_files_and_shards_change_nothing(workspace, tmp_path, monkeypatch):
    rows = pages(lift=0.1)
    one = replay_live(workspace, written(tmp_path / "one", rows, 1), challenger_share=0.5)
    monkeypatch.setattr("pipelines.replay.live_job._SHARD_ROWS", 500)
    many = replay_live(workspace, written(tmp_path / "many", [*rows, rows[0], rows[-1]], 7), challenger_share=0.5)
    for single, several in zip(one.estimates, many.estimates, strict=True):
        assert several.difference == pytest.approx(single.difference, rel=1e-9)
        assert several.se == pytest.approx(single.se, rel=1e-9)
    assert many.question.counted == one.question.counted


def test_a_split_that_is_none_is_said(workspace, tmp_path):
    rows = [{**row, "arm": "champion"} for row in pages(0.0)[:50]]
    with pytest.raises(ValueError, match="expected pages of both arms, got none of the challenger"):
        replay_live(workspace, written(tmp_path / "logs", rows, 1), challenger_share=0.5)


def test_an_uneven_split_gives_no_verdict(workspace, tmp_path):
    report = replay_live(workspace, written(tmp_path / "logs", pages(lift=0.3), 1), challenger_share=0.4)
    assert report.verdict.verdict == "not_enough_evidence"
    assert [check.name for check in report.verdict.checks if not check.passed] == ["sample_ratio"]


def earlier_split(rows: list[dict], until: int) -> list[dict]:
    """Return the pages where the challenger's users were another challenger's until a moment."""
    arms = {row["user_id"]: row["arm"] for row in rows[-USERS:]}
    own = [row["timestamp"] < until and arms[row["user_id"]] == "challenger" for row in rows]
    earlier = {"arm": "challenger", "release": "older"}
    return [row | (earlier if mine else {}) for row, mine in zip(rows, own, strict=True)]


def test_the_time_before_holds_no_other_split_of_the_same_users(workspace, tmp_path):
    """Until then another challenger had the same users: what it did to them is no covariate."""
    rows = pages(lift=0.0)
    del rows[3 * USERS]  # the only page between the two
    until_then = earlier_split(rows, BEGINS)
    found = replay_live(workspace, written(tmp_path / "until", until_then, 2), challenger_share=0.5)
    assert [one.name for one in found.estimates] == ["means"]
    assert any("no CUPED" in note and "another challenger" in note for note in found.notes)
    a_while_ago = earlier_split(rows, USERS)
    found = replay_live(workspace, written(tmp_path / "ago", a_while_ago, 2), challenger_share=0.5)
    spared = [row for row in rows if row["timestamp"] >= USERS]
    expected = replay_live(workspace, written(tmp_path / "spared", spared, 2), challenger_share=0.5)
    assert [one.difference for one in found.estimates] == [one.difference for one in expected.estimates]


def test_only_pages_of_the_two_newest_releases_count(workspace, tmp_path):
    """The champion changed a third into the split, and another challenger was served at its beginning."""
    rows = pages(lift=0.0)
    before = [row["arm"] == "champion" and row["timestamp"] < BEGINS + 4 * USERS for row in rows]
    rows = [row | ({"release": "former"} if early else {}) for row, early in zip(rows, before, strict=True)]
    rows += [row | {"request_id": f"s{row['request_id']}", "release": "rival"} for row in rows[-2 * USERS : -USERS]]
    found = replay_live(workspace, written(tmp_path / "logs", rows, 2), challenger_share=0.5)
    assert found.question.counted == 2 * USERS
    assert "other_release" in " ".join(found.notes)
    assert any("left out: challenger rival, champion rival" in note for note in found.notes)


def test_the_detectable_effect_is_that_of_the_interval_that_decides(workspace, tmp_path):
    found = replay_live(workspace, written(tmp_path / "logs", pages(lift=0.1), 1), challenger_share=0.5)
    reach = found.verdict.difference - found.verdict.low
    assert found.detectable == pytest.approx(reach + 0.8416 * found.primary.se, rel=1e-3)
