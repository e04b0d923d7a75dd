"""Verdicts that replays left in a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from features.workspace import Workspace
from pipelines.replay.report import VERDICT

FOLDER = "replay"
"""Of a workspace, with a folder for each replay."""


def newest_verdict(workspace: Workspace, challenger: str, champion: str | None) -> Path | None:
    """Return the file of the newest verdict about these two releases, None where there is none.

    Args:
        workspace: On this machine.
        challenger: Release id.
        champion: Release id, None for no champion.
    """
    found = [(_read(path), path) for path in sorted(workspace.local_path(FOLDER).glob(f"*/{VERDICT}"))]
    asked = (challenger, champion)
    about = [(one["time"], path) for one, path in found if (one.get("challenger"), one.get("champion")) == asked]
    return max(about)[1] if about else None


def _read(path: Path) -> dict[str, Any]:
    try:
        verdict = json.loads(path.read_bytes())
    except ValueError:
        verdict = None
    return verdict if isinstance(verdict, dict) and "time" in verdict else {}
