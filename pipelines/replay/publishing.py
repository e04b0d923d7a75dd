"""What replays and live read-outs share: digests, words for what was asked, and where their reports go."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from features.workspace import Workspace
from models.training.tracking import Tracker, code_version
from pipelines.replay.config import ReplayConfig
from pipelines.replay.logs import LoggedPages
from pipelines.replay.report import HTML, JSON, VERDICT, ReplayReport
from pipelines.replay.report_html import report_html
from pipelines.replay.verdicts import FOLDER

EXPERIMENT = "replay"


def inputs_digest(logs: LoggedPages, config: ReplayConfig, *others: object) -> str:
    """Return a digest of all that decides what a replay finds: pages, options, policies, code."""
    document = [logs.fingerprint, logs.since_ms, logs.before_ms, dataclasses.asdict(config), code_version(), others]
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()[:16]


def folder_name(logs: LoggedPages, digest: str) -> str:
    """Return the name of a replay's folder: the last day of its pages and the digest of its inputs."""
    return f"{logs.last_day()}-{digest[:8]}"


def reward_words(config: ReplayConfig) -> str:
    """Return what is rewarded, in words.

    Example:
        >>> reward_words(ReplayConfig(reward={"click": 1.0, "value": 0.5, "cart": 0.0}))
        '1 x click + 0.5 x value'
    """
    return " + ".join(f"{weight:g} x {name}" for name, weight in config.reward.items() if weight)


def publish(report: ReplayReport, workspace: Workspace, uri: str | None) -> list[str]:
    """Write `report.html`, `report.json` and, last, `verdict.json`; tell MLflow; return lines that say where.

    Args:
        report: What to publish; one of the same folder is replaced.
        workspace: Where.
        uri: An MLflow server; None for the workspace's own store.
    """
    name = report.folder.rpartition("/")[2]
    files = {HTML: report_html(report).encode(), JSON: report.to_json(), VERDICT: report.verdict_json()}
    for file, content in files.items():
        workspace.write_bytes(content, FOLDER, name, file)
    asked = report.question
    tags = {"inputs": asked.inputs, "champion": asked.champion.title, "challenger": asked.challenger.title}
    with Tracker(workspace, EXPERIMENT, name, {**tags, "verdict": report.verdict.verdict}, uri) as tracker:
        tracker.metrics(report.metrics(), step=0)
        for file, content in files.items():
            tracker.text(content.decode(), file)
    return tracker.lines()
