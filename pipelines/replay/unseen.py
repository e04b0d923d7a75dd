"""Which logged pages the compared policies have not learned from."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.workspace import Workspace
from models.recommend.ranked import POPULAR, TRANSITIONS
from pipelines.batch.arrow import DAY_MS
from pipelines.replay.checks import Check, at_most
from pipelines.replay.logs import LoggedPages
from pipelines.replay.named import RELEASE, NamedPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """What a policy has learned from.

    Attributes:
        policy: In words.
        until_ms: It may know pages before this moment, milliseconds since 1970 UTC.
        by_time: Whether its pages were held out by time; else it may know all pages that there were.
        source: Where this is known from, in words.
    """

    policy: str
    until_ms: int
    by_time: bool
    source: str


def learned_by(workspace: Workspace, policies: Sequence[NamedPolicy]) -> list[Learned]:
    """Return what each policy that learns has learned from: as its runs recorded, else as the workspace is split."""
    return [one for policy in policies for one in _learned(workspace, policy)]


def unseen_from(learned: Sequence[Learned]) -> int:
    """Return the first moment whose pages are known to no policy; of those that know all pages, 0 is said."""
    return max((one.until_ms for one in learned if one.by_time), default=0)


def unseen_check(learned: Sequence[Learned], logs: LoggedPages) -> Check:
    """Return the gate that a replay passes whose pages no compared policy has learned from."""
    latest = max(learned, key=lambda one: one.until_ms, default=None)
    if latest is None or latest.until_ms <= logs.since_ms:
        return at_most("unseen", 0, 0, "days of pages that a compared policy has learned from")
    days = (min(latest.until_ms, logs.before_ms) - logs.since_ms) / DAY_MS
    end = dt.datetime.fromtimestamp(latest.until_ms / 1000, dt.UTC)
    says = (
        f"{days:.3g} days of these pages are older than {end:%Y-%m-%d %H:%M} UTC, until when {latest.policy} has "
        f"learned ({latest.source}): set replay.since to a later day, or to none"
    )
    return at_most("unseen", days, 0, says)


def _learned(workspace: Workspace, policy: NamedPolicy) -> Iterator[Learned]:
    if policy.kind == RELEASE:
        assert policy.release is not None, "found with it"
        recorded = list(_recorded(policy.release))
        for run, split in recorded:
            yield _of(workspace, policy, split, f"its run {run}")
        if recorded:
            return
    if policy.kind in (RELEASE, POPULAR, TRANSITIONS) and workspace.table("sequences").exists():
        split = workspace.table("sequences").manifest().notes.get("split") or {}
        yield _of(workspace, policy, split, "the workspace's present split, since none is recorded with it")


def _recorded(release: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the runs of a release that say how their pages were split."""
    for path in sorted(release.glob("checkpoints/*/*/config.json")):
        split = json.loads(path.read_bytes()).get("split")
        if split:
            yield f"{path.parts[-3]} {path.parts[-2]}", split


def _of(workspace: Workspace, policy: NamedPolicy, split: Mapping[str, Any], source: str) -> Learned:
    if end := split.get("test_ms"):
        return Learned(policy=policy.label, until_ms=int(end), by_time=True, source=source)
    held_out = f"{source}; no pages were held out by time"
    return Learned(policy=policy.label, until_ms=_newest(workspace) + 1, by_time=False, source=held_out)


def _newest(workspace: Workspace) -> int:
    """Return the time of the workspace's newest page, -1 where there is none."""
    table = workspace.table("sequences")
    if not table.exists():
        return -1
    newest = pc.max(pc.list_flatten(table.read(["page_times"])["page_times"])).cast(pa.int64()).as_py()
    return -1 if newest is None else int(newest)
