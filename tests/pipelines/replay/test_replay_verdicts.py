from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from features.workspace import Workspace
from pipelines.replay.config import ReplayConfig
from pipelines.replay.verdicts import check_options, deciding_options, look_at, newest_verdict, refusals_recorded


def left(workspace: Workspace, folder: str, **content: object) -> Path:
    workspace.write_bytes(json.dumps(content).encode(), "replay", folder, "verdict.json")
    return Path(workspace.path("replay", folder, "verdict.json"))


def test_the_newest_verdict_about_both_releases_counts(tmp_path):
    workspace = Workspace(tmp_path)
    assert newest_verdict(workspace, "b", "a") is None
    about = {"challenger": "b", "champion": "a"}
    newest = left(workspace, "1", **about, promote=False, time="2026-02-01T00:00:00+00:00")
    left(workspace, "2", **about, promote=True, time="2026-01-01T00:00:00+00:00")
    left(workspace, "3", challenger="c", champion="a", time="2026-03-01T00:00:00+00:00")
    first = left(workspace, "4", challenger="b", champion=None, time="2026-03-01T00:00:00+00:00")
    assert newest_verdict(workspace, "b", "a") == newest
    assert newest_verdict(workspace, "b", None) == first
    assert newest_verdict(workspace, "a", "b") is None


@pytest.mark.parametrize("content", [b'{"challenger": "b", "promo', b"[]", b'{"time": 5}', b'{"time": "yesterday"}'])
def test_a_newer_file_that_nobody_can_read_is_told(tmp_path, content):
    workspace, about = Workspace(tmp_path), {"challenger": "b", "champion": "a", "time": "2026-01-01T00:00:00+00:00"}
    workspace.write_bytes(content, "replay", "2", "verdict.json")
    assert newest_verdict(workspace, "b", "a") is None
    readable, damaged = left(workspace, "1", **about, promote=True), workspace.local_path("replay", "2", "verdict.json")
    os.utime(damaged, (1, 1))
    assert newest_verdict(workspace, "b", "a") == readable
    os.utime(damaged)
    with pytest.raises(ValueError, match=f"{damaged}: expected a verdict .*, got something else that is newer than"):
        newest_verdict(workspace, "b", "a")


@pytest.mark.parametrize("place", ["local", "mock:///bucket"])
def test_other_inputs_are_another_look_and_the_same_are_none(tmp_path, place):
    workspace = Workspace(tmp_path if place == "local" else place)
    about = {"challenger": "b", "champion": "a", "time": "2026-01-01T00:00:00+00:00"}
    assert look_at(workspace, "b", "a", "x") == 1
    left(workspace, "1", **about, inputs="x", look=1)
    left(workspace, "refused", **about, promote=False, refused="ValueError: no")
    assert (look_at(workspace, "b", "a", "x"), look_at(workspace, "b", "a", "y")) == (1, 2)
    left(workspace, "2", **about, inputs="y", look=2)
    assert [look_at(workspace, "b", "a", inputs) for inputs in "xyz"] == [1, 2, 3]
    assert look_at(workspace, "c", "a", "z") == 1


def test_a_verdict_by_other_options_is_told_apart(tmp_path):
    workspace, about = Workspace(tmp_path), {"challenger": "b", "champion": "a", "time": "2026-01-01T00:00:00+00:00"}
    lax = ReplayConfig(confidence=0.5, min_users=2, reward={"purchase": 1.0})
    path = left(workspace, "1", **about, promote=True, options=deciding_options(lax))
    check_options(path, dataclasses.replace(lax, buckets=512))
    expected = (
        "replay.reward: verdict {'purchase': 1.0}, asked {'click': 1.0}.*confidence: verdict 0.5, asked 0.95.*min_"
    )
    with pytest.raises(ValueError, match=expected):
        check_options(path, ReplayConfig())
    with pytest.raises(ValueError, match="expected the options it was made with, got none"):
        check_options(left(workspace, "2", **about, promote=True), ReplayConfig())


def test_a_refused_replay_is_the_newest_word_about_a_pair(tmp_path):
    workspace = Workspace(tmp_path)
    left(workspace, "1", challenger="b", champion="a", promote=True, time="2026-01-01T00:00:00+00:00")
    with pytest.raises(ValueError, match="a page of 0 items"), refusals_recorded(workspace, "b", "a"):
        raise ValueError("a page of 0 items")
    newest = json.loads(newest_verdict(workspace, "b", "a").read_text())
    assert (newest["promote"], newest["refused"]) == (False, "ValueError: a page of 0 items")
