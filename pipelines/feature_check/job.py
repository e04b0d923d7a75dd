"""`pagewise check-features`: a day's log of what the service read, held against the tables."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.definitions import ITEM, ITEM_FEATURES, PAGE_FEATURES, USER, features_of, memories_of
from features.schemas import CLEAN_TABLES, EVENT_LOG, FEATURE_LOG, LOG_TABLES
from features.workspace import Workspace
from kernels.hashing import HashArray, hash_strings
from models.training.tracking import Tracker
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.config import BatchConfig
from pipelines.batch.folding import EVENT_COLUMNS, KEY_COLUMNS
from pipelines.batch.folding_transforms import CatalogueKeys
from pipelines.batch.raw_inputs import stream_position
from pipelines.batch.runner import running_pipeline
from pipelines.batch.split import make_splitter
from pipelines.batch.transforms import ReadTable
from pipelines.feature_check import items, users
from pipelines.feature_check.config import FeatureCheckConfig
from pipelines.feature_check.findings import Findings
from pipelines.feature_check.report import FeatureCheckReport
from pipelines.feature_check.transforms import (
    ARRIVALS,
    FEATURES,
    HAPPENED,
    PAGES,
    CheckItems,
    CheckUsers,
    ReadLog,
    Together,
    trained_values,
)
from pipelines.streaming.log import LOG, STREAM, LogSnapshot, committed_log

EXPERIMENT = "feature-check"
REPORT = "check.json"
"""Beside the day's files of `feature_log`."""
_ARRIVAL_DAYS = 7
"""Late events are looked for among those of so many days: more than any stream's lateness."""
_CLEAN, _ITEMS = CLEAN_TABLES["events"], CLEAN_TABLES["items"]
_DATE = re.compile(r"/date=(\d{4}-\d\d-\d\d)/")


def check_features(
    workspace: Workspace,
    config: FeatureCheckConfig,
    batch: BatchConfig,
    day: str | None = None,
    beam_options: Sequence[str] = (),
) -> FeatureCheckReport:
    """Check the features that a day's pages were made from, and write the report beside their log.

    Args:
        workspace: Holds the stream's log, and the tables that the daily job has made of it since.
        config: Alerts.
        batch: As the daily job was configured: its split and shards.
        day: `YYYY-MM-DD`, UTC; default: the newest day that batch knows whole.
        beam_options: Beam's own options; default: in this process.

    Raises:
        MissingTableError: The daily job has not run.
        ValueError: The day is none, nothing was logged, or batch does not know the day yet.
    """
    if day is not None:
        _require_day(day)
    return _Check(workspace, config, batch, day).run(beam_options)


def track(report: FeatureCheckReport, workspace: Workspace, uri: str | None) -> list[str]:
    """Tell MLflow; returns lines that say where."""
    with Tracker(workspace, EXPERIMENT, report.day, {"day": report.day}, uri) as tracker:
        tracker.metrics(report.metrics(), step=0)
        tracker.text(report.to_json().decode(), REPORT)
    return tracker.lines()


class _Check:
    """One run."""

    def __init__(self, workspace: Workspace, config: FeatureCheckConfig, batch: BatchConfig, day: str | None) -> None:
        self.workspace, self.config, self.batch = workspace, config, batch
        self.events = workspace.table(_CLEAN)
        self.covered = stream_position(self.events.manifest())
        self.log = committed_log(workspace)
        self.day = _chosen_day(self.log, self.events.manifest().files[-1].path, day)
        self.files = _files(self.log, FEATURE_LOG, self.day, self.day)
        self.uri = workspace.root if workspace.is_local else workspace.uri
        self.notes: list[str] = []

    def run(self, beam_options: Sequence[str]) -> FeatureCheckReport:
        """Run the pipeline, judge, and write."""
        folder = (STREAM, LOG, FEATURE_LOG, f"date={self.day}")
        findings = ("runs", "feature_check", self.day, "findings.json")
        with running_pipeline(beam_options) as pipeline:
            parts = [*self._of_users(pipeline), *self._of_items(pipeline), *self._trained(pipeline)]
            _ = parts | "found" >> beam.Flatten() | "together" >> Together(self.uri, *findings)
        found = Findings.from_json(self.workspace.read_bytes(*findings))
        self._note_left_out(found)
        report = FeatureCheckReport.of(
            self.day,
            found,
            self.config,
            [feature.name for entity in (USER, ITEM) for feature in features_of(entity)],
            tuple(self.notes),
            self.workspace.path(*folder, REPORT),
        )
        self.workspace.write_bytes(report.to_json(), *folder, REPORT)
        return report

    def _of_users(self, pipeline: beam.Pipeline) -> list[beam.PCollection]:
        reach = max(memory.keep_ms for memory in memories_of(features_of(USER)))
        since, end = _shifted(self.day, -(reach // DAY_MS) - 1), _shifted(self.day, 1)
        arrived = _files(self.log, EVENT_LOG, _shifted(self.day, -_ARRIVAL_DAYS), self.day)
        catalogue = pipeline | "items" >> ReadTable(self.uri, self.workspace.table(_ITEMS), KEY_COLUMNS)
        inputs = {
            PAGES: pipeline | "pages" >> ReadLog(self.uri, self.files, users.READ_COLUMNS),
            HAPPENED: pipeline | "events" >> ReadTable(self.uri, self.events, EVENT_COLUMNS, since=since, before=end),
            ARRIVALS: pipeline | "arrivals" >> ReadLog(self.uri, arrived, users.ARRIVAL_COLUMNS),
            "keys_of_items": catalogue | "keys" >> CatalogueKeys(),
        }
        lag_ms = round(1000 * self.config.stale_after_s)
        check = CheckUsers(self.batch.shards, self._hashes("user_id"), covered=self.covered, lag_ms=lag_ms)
        return [inputs | "check users" >> check]

    def _of_items(self, pipeline: beam.Pipeline) -> list[beam.PCollection]:
        table = self.workspace.table(ITEM_FEATURES)
        if not table.exists():
            self.notes.append(f"features of items were not checked: there is no table {ITEM_FEATURES}")
            return []
        inputs = {
            PAGES: pipeline | "pages of items" >> ReadLog(self.uri, self.files, items.READ_COLUMNS),
            FEATURES: pipeline | "features" >> ReadTable(self.uri, table, before=_shifted(self.day, 1)),
        }
        return [inputs | "check items" >> CheckItems(self.batch.shards, self._hashes("items"), self.config.item_days)]

    def _trained(self, pipeline: beam.Pipeline) -> list[beam.PCollection]:
        """Return what pages of training had: the newest days before validation, or of all where each user has some."""
        table, pages = self.workspace.table(PAGE_FEATURES), self.workspace.table("pages")
        if not (table.exists() and pages.exists() and table.manifest().rows):
            self.notes.append(f"drift was not checked: there is no table {PAGE_FEATURES}")
            return []
        validation_ms = make_splitter(self.batch.split, pages).validation_ms
        before = _shifted(self.day, 1) if validation_ms is None else _date(validation_ms // DAY_MS)
        since = _shifted(before, -self.config.drift_days)
        columns = [feature.name for feature in features_of(USER)]
        rows = pipeline | "trained" >> ReadTable(self.uri, table, columns, since=since, before=before)
        return [rows | "trained values" >> beam.Map(trained_values)]

    def _hashes(self, column: str) -> HashArray:
        """Return the sorted hashes of all ids in a column of the day's log: 8 bytes each."""
        found = [np.zeros(0, np.uint64)]
        rows = ds.dataset(self.files, schema=LOG_TABLES[FEATURE_LOG], filesystem=self.workspace.filesystem)
        for part in rows.to_batches(columns=[column]):
            values = part.column(0)
            ids = pc.list_flatten(values) if pa.types.is_list(values.type) else values
            found.append(np.unique(hash_strings(ids)))
        return np.unique(np.concatenate(found))

    def _note_left_out(self, found: Findings) -> None:
        if waiting := found.counts["pages.not_in_batch_yet"]:
            self.notes.append(
                f"{waiting:,} pages were left out: the store was ahead of the tables; let the daily job run first"
            )


def _chosen_day(log: LogSnapshot, last_events: str, day: str | None) -> str:
    """Return the day to check: the one asked for, or the newest that batch knows whole, else the newest it knows."""
    logged = sorted({found[1] for path in log.files[FEATURE_LOG] if (found := _DATE.search(path))})
    known = last_events.split("/")[0].removeprefix("date=")
    if not logged:
        raise ValueError(
            "there is nothing to check: no page's features were logged; let `pagewise serve` answer with "
            "serve.feature_log_share above 0, and `pagewise stream` take up what it sends"
        )
    if day is None:
        within = [one for one in logged if one <= known]
        day = max((one for one in within if one < known), default=max(within, default=logged[0]))
    if day not in logged:
        raise ValueError(f"--day {day}: expected a day with logged features, one of {', '.join(logged)}")
    if day > known:
        raise ValueError(
            f"--day {day}: batch knows events up to {known} only; run `pagewise run` first, then check again"
        )
    return day


def _require_day(text: str) -> None:
    try:
        right = dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"--day {text}: expected a day of the calendar as YYYY-MM-DD, for example 2026-01-31")


def _files(log: LogSnapshot, table: str, first: str, last: str) -> list[str]:
    """Return the files of a table of the log from one day to another."""
    dated = [(path, _DATE.search(path)) for path in log.files[table]]
    return [path for path, found in dated if found and first <= found[1] <= last]


def _shifted(day: str, days: int) -> str:
    return str(np.datetime64(day, "D") + days)


def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))
