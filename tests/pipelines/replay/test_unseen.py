from __future__ import annotations

import json
from pathlib import Path

import pytest
from judged_world import make_world

from features.workspace import Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.replay.logs import LoggedPages
from pipelines.replay.named import NamedPolicy, named_policy
from pipelines.replay.unseen import learned_by, unseen_check, unseen_from


@pytest.fixture
def release(tmp_path: Path) -> tuple[Workspace, NamedPolicy]:
    workspace, release_id = make_world(tmp_path)
    return workspace, named_policy(release_id, workspace)


def split(workspace: Workspace, **notes: object) -> None:
    table = workspace.table("sequences")
    table.commit([table.write_part(table.read(), shard=0)], notes={"split": notes})


def pages(since_ms: int) -> LoggedPages:
    return LoggedPages(
        uri="", files=(), rows=1, fingerprint="", since_ms=since_ms, before_ms=since_ms + DAY_MS, slots=1
    )


def test_the_run_says_until_when_a_release_has_learned(release):
    """The workspace was split anew since; without a record its present split is taken, and said so."""
    workspace, policy = release
    split(workspace, protocol="time", test_ms=9 * DAY_MS)
    assert unseen_from(learned_by(workspace, [policy])) == 9 * DAY_MS
    assert "the workspace's present split" in unseen_check(learned_by(workspace, [policy]), pages(8 * DAY_MS)).says
    run = policy.release / "checkpoints" / "ranker" / "abc" / "config.json"
    run.parent.mkdir(parents=True)
    run.write_text(json.dumps({"split": {"protocol": "time", "test_ms": 7 * DAY_MS}}))
    learned = learned_by(workspace, [policy])
    assert unseen_from(learned) == 7 * DAY_MS
    assert unseen_check(learned, pages(7 * DAY_MS)).passed
    asked_for_earlier_ones = unseen_check(learned, pages(6 * DAY_MS))
    assert (asked_for_earlier_ones.passed, asked_for_earlier_ones.value) == (False, 1.0)
    assert "older than 1970-01-08 00:00 UTC, until when release" in asked_for_earlier_ones.says
    assert "its run ranker abc" in asked_for_earlier_ones.says
    assert unseen_from(learned_by(workspace, [policy, named_policy("popular", workspace)])) == 9 * DAY_MS


def test_where_nothing_was_held_out_by_time_all_pages_were_seen(release):
    workspace, policy = release
    split(workspace, protocol="leave_one_out", test_ms=None)
    learned = learned_by(workspace, [policy])
    newest = max(max(times) for times in workspace.table("sequences").read()["page_times"].to_pylist())
    newest_ms = int(newest.timestamp() * 1000) if hasattr(newest, "timestamp") else newest
    assert unseen_from(learned) == 0
    assert not unseen_check(learned, pages(newest_ms)).passed
    assert unseen_check(learned, pages(newest_ms + 1)).passed


def test_whoever_learns_nothing_has_seen_nothing(release):
    workspace, _ = release
    assert learned_by(workspace, [named_policy("uniform", workspace), named_policy("logged", workspace)]) == []
    assert unseen_check([], pages(0)).passed
