from __future__ import annotations

import json
from pathlib import Path

from features.workspace import Workspace
from pipelines.replay.verdicts import newest_verdict


def left(workspace: Workspace, folder: str, **content: object) -> Path:
    workspace.write_bytes(json.dumps(content).encode(), "replay", folder, "verdict.json")
    return workspace.local_path("replay", folder, "verdict.json")


def test_the_newest_verdict_about_both_releases_counts(tmp_path):
    workspace = Workspace(tmp_path)
    assert newest_verdict(workspace, "b", "a") is None
    about = {"challenger": "b", "champion": "a"}
    newest = left(workspace, "1", **about, promote=False, time="2026-02-01T00:00:00+00:00")
    left(workspace, "2", **about, promote=True, time="2026-01-01T00:00:00+00:00")
    left(workspace, "3", challenger="c", champion="a", time="2026-03-01T00:00:00+00:00")
    first = left(workspace, "4", challenger="b", champion=None, time="2026-03-01T00:00:00+00:00")
    workspace.write_bytes(b"{", "replay", "5", "verdict.json")
    workspace.write_bytes(b"[]", "replay", "6", "verdict.json")
    assert newest_verdict(workspace, "b", "a") == newest
    assert newest_verdict(workspace, "b", None) == first
    assert newest_verdict(workspace, "a", "b") is None
