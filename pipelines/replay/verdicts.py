"""Verdicts that replays left in a workspace."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from features.workspace import Workspace
from pipelines.replay.config import ReplayConfig
from pipelines.replay.report import VERDICT
from pipelines.replay.verdict import Compared

FOLDER = "replay"
"""Of a workspace, with a folder for each replay."""
REFUSED = "refused"
"""Why there is no verdict, in the record of a replay that could not be done."""
DECIDING = (
    "reward", "unit", "attribution_hours", "candidates", "estimator", "reward_model", "trust_estimated", "confidence",
    "margin", "min_users", "min_rewarded_users", "min_effective_sample", "max_weight_share", "max_outside",
)  # fmt: skip
"""Options that say what is better and how much evidence that takes; the others say where to look and how precisely."""


def deciding_options(config: ReplayConfig) -> dict[str, Any]:
    """Return the options that a verdict must have been made with to promote under them."""
    return {name: getattr(config, name) for name in DECIDING} | {"reward": dict(config.reward)}


def check_options(path: Path, config: ReplayConfig) -> None:
    """Compare the options that a verdict to ship was made with to others; what is none, the registry refuses anyway.

    Raises:
        ValueError: One that decides differs, or the verdict does not tell; it is about another question.
    """
    verdict = _read(path.read_bytes()) if path.exists() else {}
    if verdict.get("promote") is not True:
        return
    made_with = verdict.get("options")
    if not made_with:
        raise ValueError(
            f"verdict {path}: expected the options it was made with, got none; `pagewise replay` writes them"
        )
    asked = deciding_options(config)
    differing = [
        f"replay.{name}: verdict {made_with.get(name)!r}, asked {value!r}"
        for name, value in asked.items()
        if made_with.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"verdict {path}: expected the options that promote is asked with, got others: {'; '.join(differing)}; "
            "replay with the same ones, or give promote those of the verdict"
        )


def look_at(workspace: Workspace, challenger: str, champion: str | None, inputs: str) -> int:
    """Return the how-manieth look at a pair a replay is: 1 with the first inputs, one more with others each time.

    Args:
        workspace: Holds the earlier verdicts.
        challenger: Of the pair.
        champion: Of the pair.
        inputs: Digest of pages and options; with the same as before it is the same look.
    """
    known = [one for one in _verdicts(workspace, challenger, champion).values() if "inputs" in one]
    looks = {one["inputs"]: int(one.get("look", 1)) for one in known}
    return looks.get(inputs) or max([len(looks), *looks.values()]) + 1


def compared_now(
    workspace: Workspace, challenger: str, champion: str | None, inputs: str, config: ReplayConfig
) -> Compared:
    """Return what a verdict that is made now is about: the pair, which look at it this is, under which options."""
    return Compared(
        challenger=challenger,
        champion=champion,
        inputs=inputs,
        time=dt.datetime.now(dt.UTC),
        look=look_at(workspace, challenger, champion, inputs),
        options=deciding_options(config),
    )


@contextlib.contextmanager
def refusals_recorded(workspace: Workspace, challenger: str, champion: str | None) -> Iterator[None]:
    """Record why there is no verdict where a replay of a pair is refused, so that no older one is the newest."""
    try:
        yield
    except ValueError as error:
        record = refusal(challenger, champion, error)
        name = hashlib.sha256(json.dumps([challenger, champion]).encode()).hexdigest()[:8]
        workspace.write_bytes(json.dumps(record, indent=2).encode(), FOLDER, f"{REFUSED}-{name}", VERDICT)
        raise


def refusal(challenger: str, champion: str | None, error: Exception) -> dict[str, Any]:
    """Return the record of a replay that could not be done, in place of a verdict."""
    return {
        "challenger": challenger,
        "champion": champion,
        "promote": False,
        REFUSED: f"{type(error).__name__}: {error}",
        "time": dt.datetime.now(dt.UTC).isoformat(),
    }


def newest_verdict(workspace: Workspace, challenger: str, champion: str | None) -> Path | None:
    """Return the file of the newest verdict about these two releases, None where there is none.

    Args:
        workspace: On this machine.
        challenger: Release id.
        champion: Release id, None for no champion.

    Raises:
        ValueError: A newer file cannot be read: nobody knows what it says, or about whom.
    """
    files = {info.path: info.mtime_ns for info in _files(workspace)}
    found = [(one["time"], path) for path, one in _verdicts(workspace, challenger, champion).items()]
    newest = max(found)[1] if found else None
    for path, written in files.items():
        if newest is not None and written >= files[newest] and not _read(_content(workspace, path)):
            raise ValueError(
                f"{path}: expected a verdict that `pagewise replay` wrote, got something else that is newer than "
                f"{newest}; replay again and remove it, or name the verdict that counts by --verdict"
            )
    return None if newest is None else Path(newest)


def _verdicts(workspace: Workspace, challenger: str, champion: str | None) -> dict[str, dict[str, Any]]:
    found = {info.path: _read(_content(workspace, info.path)) for info in _files(workspace)}
    asked = (challenger, champion)
    return {path: one for path, one in found.items() if one and (one.get("challenger"), one.get("champion")) == asked}


def _files(workspace: Workspace) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(workspace.path(FOLDER), recursive=True, allow_not_found=True)
    found = workspace.filesystem.get_file_info(selector)
    return sorted((info for info in found if info.base_name == VERDICT), key=lambda info: info.path)


def _content(workspace: Workspace, path: str) -> bytes:
    with workspace.filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def _read(content: bytes) -> dict[str, Any]:
    """Return a verdict, nothing where it is none."""
    try:
        verdict = json.loads(content)
        dt.datetime.fromisoformat(verdict["time"])
    except (ValueError, TypeError, KeyError):
        return {}
    return dict(verdict)
