"""The stage that makes `pages` from clean events and what was logged of served pages; what is new changes its pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.schemas import LOG_TABLES, PAGE_LOG, STREAM_POSITION, TABLES
from features.workspace import FileEntry, Manifest, Table, Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.config import BatchConfig
from pipelines.batch.increment import (
    CLEAN,
    FRESH,
    FRESH_TABLES,
    SERVED,
    SETTINGS,
    SOFTWARE,
    STREAM,
    CannotFoldError,
    date_of,
    fresh_rows,
    made_with,
    merged_entries,
    require_equal,
    standing,
)
from pipelines.batch.merge import ADDED, REMOVED, MergeByDay
from pipelines.batch.page_changes import first_touched
from pipelines.batch.page_transforms import CUT, BuildPages, ChangePages, ReadGiven, ReadServed
from pipelines.batch.raw_inputs import stream_position
from pipelines.batch.stage import check_equal, run_stage
from pipelines.batch.transforms import COUNTS, CountRows, ReadTable, WriteByDay
from pipelines.streaming.log import committed_log

_KEY_SCHEMA = TABLES[FRESH_TABLES["served_pages"]]
_KEYS = _KEY_SCHEMA.names


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
        self.given = workspace.table(SERVED)
        self.position = stream_position(self.clean)
        self.log = committed_log(workspace).files[PAGE_LOG] if self.position else []
        self.by_day = bool(self.clean.notes.get("order_only") or self.clean.notes.get("dates_only"))
        self.inputs = {
            CLEAN: self.clean.fingerprint,
            **made_with(pages=config.pages, shards=config.shards, by_day=self.by_day),
        }
        if self.given.exists():
            self.inputs[SERVED] = self.given.manifest().fingerprint
        if self.position:
            self.inputs[STREAM] = f"{self.position} {self._served_rows(self.position)}"

    def compute(self) -> list[FileEntry]:
        """Build all pages."""

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            rows = pipeline | "clean events" >> ReadTable(uri, self.events)
            inputs = {"events": rows, **self._all_served(pipeline, uri)}
            pages = inputs | "build pages" >> BuildPages(self.config, by_day=self.by_day)
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
        fresh = fresh_rows(self.workspace, "events", before.inputs.get(CLEAN))
        given = _keys(fresh_rows(self.workspace, "served_pages", before.inputs.get(SERVED)))
        served = pa.concat_tables([self._new_served(before), given])
        if not (fresh and fresh.manifest().rows) and not served.num_rows:
            return list(before.files), "no new event: all pages stay"
        pages = self.workspace.table("pages").read(_KEYS)
        moment = first_touched(_keys(fresh), served, pages, self.config.pages, by_day=self.by_day)
        held = [*self.clean.files, *(self.given.manifest().files if self.given.exists() else [])]
        first = min(date_of(entry) for entry in held)
        while True:
            since = max(_date(moment), first)
            entries, changed, cut = self._change(since, fresh, served, given, whole=since == first)
            if not cut:
                days = len({date_of(entry) for entry in entries})
                return entries, f"{changed:,} pages were built, of events since {since}, of {days} days"
            moment = _midnight(since) - 1

    def _all_served(self, pipeline: beam.Pipeline, uri: str, since: str = "") -> dict[str, beam.PCollection]:
        return {
            "logged": pipeline | "logged" >> ReadServed(uri, self.log, self.position, since),
            "given": pipeline | "given" >> ReadGiven(uri, self.given, since),
        }

    def _change(
        self, since: str, fresh: Table | None, served: pa.Table, given: pa.Table, *, whole: bool
    ) -> tuple[list[FileEntry], int, int]:
        """Build changed pages from the events since a day; return all files, changed pages, and cut bursts."""
        pages = self.workspace.table("pages")
        moment = None if whole else _midnight(since)

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            new = ReadTable(uri, fresh, ["user_id", "event_id"]) if fresh else beam.Create([])
            inputs = {
                "events": pipeline | "clean events" >> ReadTable(uri, self.events, since=since),
                "fresh": pipeline | "fresh events" >> new,
                "new_served": pipeline | "newly served" >> beam.Create([served]),
                "new_given": pipeline | "newly given" >> beam.Create([given]),
                **self._all_served(pipeline, uri, since),
            }
            changes = inputs | "changes" >> ChangePages(self.config, moment, by_day=self.by_day)
            merged = {kind: changes[kind] for kind in (ADDED, REMOVED)} | "merge" >> MergeByDay(
                uri, pages, self.config.shards
            )
            return [merged, changes[COUNTS]]

        summary = run_stage("pages", self.workspace, self.inputs, self.config, self.beam_options, build)
        check_equal(FRESH, fresh.manifest().rows if fresh else 0, summary.count(f"{FRESH}.in"))
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
        rows = self._logged_pages().to_table(columns=_KEYS, filter=(position > after) & (position <= upto))
        return rows.cast(_KEY_SCHEMA)

    def _served_rows(self, upto: int) -> int:
        return int(self._logged_pages().count_rows(filter=pc.field(STREAM_POSITION) <= upto))

    def _logged_pages(self) -> ds.Dataset:
        if not self.log:
            return ds.dataset(LOG_TABLES[PAGE_LOG].empty_table())
        return ds.dataset(self.log, schema=LOG_TABLES[PAGE_LOG], filesystem=self.workspace.filesystem)


def _keys(table: Table | None) -> pa.Table:
    return _KEY_SCHEMA.empty_table() if table is None else table.read(_KEYS)


def _date(moment: int) -> str:
    return str(dt.datetime.fromtimestamp(moment // 1000, dt.UTC).date())


def _midnight(date: str) -> int:
    return dt.date.fromisoformat(date).toordinal() * DAY_MS - _EPOCH


_EPOCH: Any = dt.date(1970, 1, 1).toordinal() * DAY_MS
