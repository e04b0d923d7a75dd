"""The stage: pages of one release for every user, at one moment."""

from __future__ import annotations

import datetime
import time as clock
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import ITEM_FEATURES, USER_STATES
from features.workspace import Workspace
from models.recommend.delta_files import read_deltas
from models.recommend.deltas import catalogue_version
from models.recommend.release_manifest import read_manifest
from pipelines.batch.stage import check_equal, commit_table, make_report, run_stage
from pipelines.recommend.config import RecommendJobConfig
from pipelines.recommend.pages import PagesJob
from pipelines.recommend.transforms import COLUMNS, RECOMMENDATIONS, RecommendUsers
from pipelines.report import StageReport

REQUIRED = ("sequences", "clean_items")
OPTIONAL = ("clean_users", USER_STATES, ITEM_FEATURES)
"""Tables that are read."""


def recommend(
    workspace: Workspace,
    config: RecommendJobConfig,
    release: Path,
    *,
    history_length: int,
    time: int | None = None,
    beam_options: Sequence[str] = (),
) -> StageReport:
    """Make a page for every user of `sequences` and `clean_users`: the table `recommendations`.

    The release's catalogue deltas count. For the same moment, request ids, deltas and data, pages are those of the
    service.

    Args:
        workspace: Holds `sequences` and `clean_items`, perhaps `clean_users`, `user_states` and `item_features`.
        config: How.
        release: Folder of the release.
        history_length: Newest events per user, as in the service (`store.history_length`).
        time: The moment of all requests, milliseconds since 1970 UTC; None for just after the newest event.
        beam_options: Beam's own options; default: in this process.

    Raises:
        FileNotFoundError: There is no release there.
        MissingTableError: A table has not been written yet.
        DeltaError: A catalogue delta is damaged.
        ValueError: `time` is not after all events, or the release refuses the page size.
    """
    started = clock.monotonic()
    manifest = read_manifest(release)
    tables = {name: workspace.table(name) for name in (*REQUIRED, *OPTIONAL)}
    tables = {name: table for name, table in tables.items() if name in REQUIRED or table.exists()}
    inputs = {name: table.manifest().fingerprint for name, table in tables.items()}
    items_version = " ".join(inputs.get(name, "none") for name in ("clean_items", ITEM_FEATURES))
    moment = _moment(workspace, time)
    deltas, damaged = read_deltas(release)
    if damaged is not None:
        raise damaged
    items_version = " ".join([items_version, *(delta.digest for delta in deltas)])
    job = PagesJob(
        release=release.absolute(),
        release_id=manifest.release_id,
        delta=len(deltas),
        catalogue_version=catalogue_version(manifest.catalogue, len(deltas)),
        uri=workspace.root if workspace.is_local else workspace.uri,
        items_version=items_version,
        time=moment,
        page_size=config.page_size,
        explore=config.explore,
        history_length=history_length,
        users_per_batch=config.users_per_batch,
    )
    inputs |= {"release": manifest.release_id, "deltas": deltas[-1].digest if deltas else "none"}
    inputs |= {"time": str(moment), "history_length": str(history_length)}

    def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
        of_users = {name: tables[name] for name in COLUMNS if name in tables}
        return [pipeline | "recommend" >> RecommendUsers(job, of_users, config.shards)]

    summary = run_stage("recommend", workspace, inputs, config, beam_options, build)
    users = summary.count("users.in")
    check_equal("users", users, summary.rows(RECOMMENDATIONS))
    notes = {"release": manifest.release_id, "delta": len(deltas), "time": moment, "explore": config.explore}
    commit_table(workspace, RECOMMENDATIONS, summary, inputs, {"in": users}, notes)
    counts = {"users.in": users, f"{RECOMMENDATIONS}.out": summary.rows(RECOMMENDATIONS)}
    fallbacks = [
        f"{count:,} pages from {name.removeprefix('fallback.')} instead of the first choice"
        for name, count in sorted(summary.counts.items())
        if name.startswith("fallback.")
    ]
    return make_report("recommend", workspace, counts, started, [RECOMMENDATIONS], fallbacks)


def _moment(workspace: Workspace, time: int | None) -> int:
    newest = _newest_event(workspace)
    if time is not None and time <= newest:
        raise ValueError(
            f"time: expected later than the newest event, {_iso(newest)}, got {_iso(time)}; users are known by all of "
            "their events"
        )
    return newest + 1 if time is None else time


def _iso(time: int) -> str:
    moment = datetime.datetime.fromtimestamp(time / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds")


def _newest_event(workspace: Workspace) -> int:
    """Return the time of the newest event of all users, 0 without events."""
    newest = [0]
    for name, column in (("sequences", "times"), ("sequences", "page_times"), (USER_STATES, "last_time")):
        table = workspace.table(name)
        if name == USER_STATES and not table.exists():
            continue
        for batch in table.dataset().to_batches([column]):
            values = batch.column(0)
            flat = pc.list_flatten(values) if pa.types.is_list(values.type) else values
            newest.append(pc.max(flat.cast(pa.int64())).as_py() or 0)
    return max(newest)
