"""The stage that makes `pages` from `clean_events` and the log of served pages; new events change only their pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.schemas import LOG_TABLES, PAGE_LOG, STREAM_POSITION
from features.workspace import FileEntry, Manifest, Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.config import BatchConfig
from pipelines.batch.increment import (
    CLEAN,
    FRESH,
    SETTINGS,
    SOFTWARE,
    STREAM,
    CannotFoldError,
    date_of,
    fresh_events,
    made_with,
    merged_entries,
    require_equal,
    standing,
)
from pipelines.batch.merge import ADDED, REMOVED, MergeByDay
from pipelines.batch.page_changes import first_touched
from pipelines.batch.page_transforms import CUT, BuildPages, ChangePages, ReadServed
from pipelines.batch.raw_inputs import stream_position
from pipelines.batch.stage import check_equal, run_stage
from pipelines.batch.transforms import COUNTS, CountRows, ReadTable, WriteByDay
from pipelines.streaming.log import committed_log

_KEYS = ["user_id", "request_id", "timestamp"]


def build_pages(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str]) -> tuple[dict[str, int], str]:
    """Commit `pages`; return counts, and a line that says what was reused.

    Raises:
        MissingTableError: `validate` has not run.
        ValueError: There are no clean events.
    """
    job = _Pages(workspace, config, beam_options)
    try:
        entries, note = job.fold()
    except CannotFoldError as reason:
        entries, note = job.compute(), f"all pages were built: {reason}"
    rows_in, rows_out = job.clean.rows, sum(entry.rows for entry in entries)
    workspace.table("pages").commit(
        entries, inputs=job.inputs, counts={"in": rows_in, "out": rows_out}, notes=dict(job.clean.notes)
    )
    return {f"{CLEAN}.in": rows_in, "pages.out": rows_out}, note


class _Pages:
    """One run of the stage."""

    def __init__(self, workspace: Workspace, config: BatchConfig, beam_options: Sequence[str]) -> None:
        self.workspace, self.config, self.beam_options = workspace, config, beam_options
        self.events = workspace.table(CLEAN)
        self.clean = self.events.manifest()
        if not self.clean.rows:
            raise ValueError("table 'clean_events' has no rows: every event was rejected; table dead_letters tells why")
        self.position = stream_position(self.clean)
        self.log = committed_log(workspace).files[PAGE_LOG] if self.position else []
        self.by_day = bool(self.clean.notes.get("order_only") or self.clean.notes.get("dates_only"))
        self.inputs = {
            CLEAN: self.clean.fingerprint,
            **made_with(pages=config.pages, shards=config.shards, by_day=self.by_day),
        }
        if self.position:
            self.inputs[STREAM] = f"{self.position} {self._served_rows(self.position)}"

    def compute(self) -> list[FileEntry]:
        """Build all pages."""

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            rows = pipeline | "clean events" >> ReadTable(uri, self.events)
            served = pipeline | "served" >> ReadServed(uri, self.log, self.position)
            pages = (rows, served) | "build pages" >> BuildPages(self.config, by_day=self.by_day)
            return [
                rows | "count events" >> CountRows(f"{CLEAN}.in"),
                pages | "write pages" >> WriteByDay(uri, "pages", self.config.shards),
            ]

        summary = run_stage("pages", self.workspace, self.inputs, self.config, self.beam_options, build)
        check_equal(CLEAN, self.clean.rows, summary.count(f"{CLEAN}.in"))
        return summary.files.get("pages", [])

    def fold(self) -> tuple[list[FileEntry], str]:
        """Build the pages that new events, or what is newly known of served pages, change.

        Raises:
            CannotFoldError: Something else has changed.
        """
        before = standing([self.workspace.table("pages")])["pages"]
        require_equal(before.inputs, self.inputs, SETTINGS, SOFTWARE)
        served = self._new_served(before)
        fresh = fresh_events(self.workspace, before.inputs.get(CLEAN))
        if not fresh.manifest().rows and not served.num_rows:
            return list(before.files), "no new event: all pages stay"
        pages = self.workspace.table("pages").read(_KEYS)
        moment = first_touched(fresh.read(_KEYS), served, pages, self.config.pages, by_day=self.by_day)
        first = min(date_of(entry) for entry in self.clean.files)
        while True:
            since = max(_date(moment), first)
            entries, changed, cut = self._change(since, fresh.name, served, whole=since == first)
            if not cut:
                days = len({date_of(entry) for entry in entries})
                return entries, f"{changed:,} pages were built, of events since {since}, of {days} days"
            moment = _midnight(since) - 1

    def _change(self, since: str, fresh: str, served: pa.Table, *, whole: bool) -> tuple[list[FileEntry], int, int]:
        """Build changed pages from the events since a day; return all files, changed pages, and cut bursts."""
        pages, new = self.workspace.table("pages"), self.workspace.table(fresh)
        moment = None if whole else _midnight(since)

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            inputs = {
                "events": pipeline | "clean events" >> ReadTable(uri, self.events, since=since),
                "fresh": pipeline | "fresh events" >> ReadTable(uri, new, ["user_id", "event_id"]),
                "new_served": pipeline | "newly served" >> beam.Create([served.select(_KEYS[:2])]),
                "served": pipeline | "served" >> ReadServed(uri, self.log, self.position, since),
            }
            changes = inputs | "changes" >> ChangePages(self.config, moment, by_day=self.by_day)
            merged = {kind: changes[kind] for kind in (ADDED, REMOVED)} | "merge" >> MergeByDay(
                uri, pages, self.config.shards
            )
            return [merged, changes[COUNTS]]

        summary = run_stage("pages", self.workspace, self.inputs, self.config, self.beam_options, build)
        check_equal(FRESH, new.manifest().rows, summary.count(f"{FRESH}.in"))
        entries = merged_entries(pages.manifest(), summary)
        added, removed = summary.count("pages.added"), summary.count("pages.removed")
        cut = summary.count(CUT)
        if not cut:
            check_equal("pages", pages.manifest().rows + added, sum(entry.rows for entry in entries) + removed)
        return entries, added, cut

    def _new_served(self, before: Manifest) -> pa.Table:
        """Return the keys of pages that came to the log since the pages were built."""
        position, rows = (int(part) for part in before.inputs.get(STREAM, "0 0").split())
        if position > self.position or self._served_rows(position) != rows:
            raise CannotFoldError("the stream's log is not what it was")
        return self._served(position, self.position)

    def _served(self, after: int, upto: int) -> pa.Table:
        position = pc.field(STREAM_POSITION)
        return self._logged_pages().to_table(columns=_KEYS, filter=(position > after) & (position <= upto))

    def _served_rows(self, upto: int) -> int:
        return int(self._logged_pages().count_rows(filter=pc.field(STREAM_POSITION) <= upto))

    def _logged_pages(self) -> ds.Dataset:
        if not self.log:
            return ds.dataset(LOG_TABLES[PAGE_LOG].empty_table())
        return ds.dataset(self.log, schema=LOG_TABLES[PAGE_LOG], filesystem=self.workspace.filesystem)


def _date(moment: int) -> str:
    return str(dt.datetime.fromtimestamp(moment // 1000, dt.UTC).date())


def _midnight(date: str) -> int:
    return dt.date.fromisoformat(date).toordinal() * DAY_MS - _EPOCH


_EPOCH: Any = dt.date(1970, 1, 1).toordinal() * DAY_MS
