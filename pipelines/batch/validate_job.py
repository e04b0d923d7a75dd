"""The stage `validate`: raw tables and the stream's log, row by row against their contract.

Where events were only added, they alone are read; they join the tables of the run before (`fold`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from features.schemas import CLEAN_TABLES, DUPLICATE, ITEM_LOG
from features.workspace import FileEntry, Workspace
from pipelines.batch.checks import PLACE, duplicates
from pipelines.batch.config import BatchConfig
from pipelines.batch.increment import BEFORE, CLEAN, FRESH_TABLES, CannotFoldError, date_of, merged_entries
from pipelines.batch.merge import ADDED, REMOVED, MergeByDay
from pipelines.batch.raw_inputs import OPTIONAL, REJECTS, RawInputs, Source, clean_before, logged_items
from pipelines.batch.runner import Counted, Summary
from pipelines.batch.stage import check_equal, dropped_counts, make_report, run_stage
from pipelines.batch.transforms import COUNTS, DEAD, ROWS, CountRows, ReadTable, WriteByDay
from pipelines.batch.unread import unread_files
from pipelines.batch.validate_transforms import (
    REPLACED,
    FreshRows,
    RowsOf,
    ValidateTable,
    WriteDeadLetters,
)
from pipelines.report import StageReport
from pipelines.streaming.page_checks import SOURCE


def validate(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str] = ()) -> StageReport:
    """Check raw tables row by row: `clean_events`, `clean_items`, `clean_users`, `clean_served_pages`, `dead_letters`.

    Where there are no `users` any more, a `clean_users` of an earlier run becomes empty. Where nothing but events and
    served pages were added since the last run, only these are read; the result is the same. (Of equal rows in
    two files the dead letter names the new file, in a run over everything that whose name comes later.)

    Args:
        workspace: Holds the raw tables `events`, `items` and perhaps `users` and `served_pages`, committed or as plain
            files, and perhaps the stream's log.
        config: Uses `shards`.
        beam_options: Beam's own options; default: in this process.

    Raises:
        FileNotFoundError: There is no `events` or no `items` table.
        ValueError: A table has no rows, a file cannot be read, columns are missing or unknown.
    """
    started = time.monotonic()
    job = _Validation(workspace, config, beam_options)
    try:
        counts, note = job.fold()
    except CannotFoldError as reason:
        counts, note = job.compute(), f"all rows were read: {reason}"
    notes = [note, *_time_span(workspace), *unread_files(workspace)]
    written = [*(CLEAN_TABLES[name] for name in job.raw.sources), "dead_letters"]
    return make_report("validate", workspace, counts, started, written, notes)


class _Validation:
    """One run of the stage."""

    def __init__(self, workspace: Workspace, config: BatchConfig, beam_options: Sequence[str]) -> None:
        self.workspace, self.config, self.beam_options = workspace, config, beam_options
        self.raw = RawInputs.of(workspace, config)
        self.shards = config.shards

    def compute(self) -> dict[str, int]:
        """Read everything."""
        present, rejects = list(self.raw.sources), self.workspace.table(REJECTS)

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            outputs = [self._checked(pipeline, uri, name) for name in present]
            dead, results = [output[DEAD] for output in outputs], []
            if rejects.exists():
                dead.append(pipeline | "import rejects" >> ReadTable(uri, rejects))
                results.append(dead[-1] | "count import rejects" >> CountRows(f"{REJECTS}.in"))
            letters = dead | "all dead letters" >> beam.Flatten()
            results.append(letters | "write dead letters" >> WriteDeadLetters(uri, self.shards))
            return [*results, *(output[kind] for output in outputs for kind in (ROWS, COUNTS))]

        summary = self._run(build)
        counts = {name: _counted(summary, name) for name in present}
        files = {name: summary.files.get(CLEAN_TABLES[name], []) for name in present}
        for name, fresh in FRESH_TABLES.items():
            if name in present or self.workspace.table(fresh).exists():
                self.workspace.table(fresh).commit([])
        return self._commit(files, summary.files.get("dead_letters", []), counts, summary.count(f"{REJECTS}.in"))

    def fold(self) -> tuple[dict[str, int], str]:
        """Read what is new.

        Raises:
            CannotFoldError: Other than added rows something changed, or one of them takes the place of an older one.
        """
        before = clean_before(self.workspace)
        sources, changed = self.raw.fresh(self.workspace, before[CLEAN]), self.raw.changed(before[CLEAN])
        tables = {name: self.workspace.table(name) for name in (*before, REJECTS)}
        anew = [name for name in changed if name in self.raw.sources]

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            grown = [self._grown(pipeline, uri, name, added) for name, added in sources.items()]
            outputs = [*grown, *(self._checked(pipeline, uri, name) for name in anew)]
            kept = pipeline | "dead letters before" >> ReadTable(uri, tables["dead_letters"])
            dead = [kept | "of the same" >> RowsOf(changed, among=False), *(part[DEAD] for part in outputs)]
            if tables[REJECTS].exists():
                rejects = pipeline | "import rejects" >> ReadTable(uri, tables[REJECTS])
                dead.append(rejects | "of others" >> RowsOf(changed, among=True))
            letters = dead | "all dead letters" >> beam.Flatten()
            written = letters | "write dead letters" >> WriteDeadLetters(uri, self.shards)
            return [written, *(output[kind] for output in outputs for kind in (ROWS, COUNTS))]

        summary = self._run(build)
        added = {name: _added(summary, name) for name in sources}
        counts = {name: _counted(summary, name) for name in anew}
        counts |= {name: dict(before[CLEAN_TABLES[name]].counts) for name in self.raw.sources if name not in anew}
        counts |= {name: dict(Counter(counts[name]) + Counter(rows)) for name, rows in added.items()}
        files = {name: list(before[CLEAN_TABLES[name]].files) for name in self.raw.sources if name not in anew}
        files |= {name: summary.files.get(CLEAN_TABLES[name], []) for name in anew}
        files |= {name: merged_entries(before[CLEAN_TABLES[name]], summary) for name in sources}
        rejects = before["dead_letters"].counts.get(f"{REJECTS}.in", 0)
        total = self._commit(files, summary.files.get("dead_letters", []), counts, rejects)
        for name in (name for name, found in sources.items() if found):
            clean, fresh = CLEAN_TABLES[name], FRESH_TABLES[name]
            inputs = {BEFORE: before[clean].fingerprint, clean: tables[clean].manifest().fingerprint}
            self.workspace.table(fresh).commit(summary.files.get(fresh, []), inputs=inputs, counts=added[name])
        read = " and ".join(f"{rows['in']:,} new {name.replace('_', ' ')}" for name, rows in added.items())
        days = len(summary.touched(CLEAN))
        return total, f"read {read}; {days} of {_days(files['events'])} days were written anew"

    def _grown(
        self, pipeline: beam.Pipeline, uri: str, name: str, sources: Sequence[Source]
    ) -> dict[str, beam.PCollection]:
        """Add new rows to the clean table, and write apart what is needed to know which they are."""
        clean, fresh = self.workspace.table(CLEAN_TABLES[name]), self.workspace.table(FRESH_TABLES[name])
        checked = pipeline | f"fresh {name}" >> FreshRows(uri, name, sources, clean, self.shards)
        none = pipeline | f"no {name} to remove" >> beam.Create([])
        merged = {ADDED: checked[ROWS], REMOVED: none} | f"merge {name}" >> MergeByDay(uri, clean, self.shards)
        chosen = checked[ROWS] | f"columns of fresh {name}" >> beam.Map(_select, fresh.schema.names)
        listed = chosen | f"write fresh {name}" >> WriteByDay(uri, fresh.name, self.shards)
        written = (merged, listed) | f"written of {name}" >> beam.Flatten()
        return {ROWS: written, DEAD: checked[DEAD], COUNTS: checked[COUNTS]}

    def _checked(self, pipeline: beam.Pipeline, uri: str, name: str) -> dict[str, beam.PCollection]:
        if name != "items" or not self.raw.log.files[ITEM_LOG]:
            return pipeline | f"validate {name}" >> ValidateTable(uri, name, self.raw.sources[name], self.shards)
        newer, older = logged_items(self.workspace, self.raw.log)
        validated = ValidateTable(uri, name, self.raw.sources[name], self.shards, newer)
        checked = pipeline | f"validate {name}" >> validated
        dead = pipeline | "older records" >> beam.Create([_older(name, older)])
        counts = [Counted(f"{name}.in", newer.num_rows + older.num_rows)]
        counts.append(Counted(f"{name}.dropped.{DUPLICATE}", older.num_rows))
        logged = pipeline | "counts of the log" >> beam.Create(counts)
        return {
            ROWS: checked[ROWS],
            DEAD: (checked[DEAD], dead) | "dead items" >> beam.Flatten(),
            COUNTS: (checked[COUNTS], logged) | "counts of items" >> beam.Flatten(),
        }

    def _run(self, build: Callable[[beam.Pipeline, str], list[beam.PCollection]]) -> Summary:
        return run_stage("validate", self.workspace, self.raw.inputs, self.config, self.beam_options, build)

    def _commit(
        self,
        files: Mapping[str, list[FileEntry]],
        dead: list[FileEntry],
        counts: Mapping[str, Mapping[str, int]],
        rejects: int,
    ) -> dict[str, int]:
        """Publish all tables, whose rows must add up; return the counts of the report."""
        for name, of_table in counts.items():
            _require_rows(name, of_table, [source.path for source in self.raw.sources[name]])
            check_equal(name, of_table["in"], sum(entry.rows for entry in files[name]) + _dropped(of_table))
        check_equal("dead_letters", sum(map(_dropped, counts.values())) + rejects, sum(entry.rows for entry in dead))
        total = {f"{name}.{what}": rows for name, of_table in counts.items() for what, rows in of_table.items()}
        for name, clean in CLEAN_TABLES.items():
            table = self.workspace.table(clean)
            if name in files or table.exists():
                notes = _notes(self.workspace, name) if name in files else {}
                table.commit(files.get(name, []), inputs=self.raw.inputs, counts=counts.get(name), notes=notes)
        own = {f"{REJECTS}.in": rejects} if self.workspace.table(REJECTS).exists() else {}
        self.workspace.table("dead_letters").commit(dead, inputs=self.raw.inputs, counts=own)
        return {**total, **own}


def _older(name: str, rows: pa.Table) -> pa.Table:
    """Make dead letters of records of the stream that newer ones stand for."""
    places = pa.array(np.zeros(rows.num_rows, np.int64))
    return duplicates(name, rows.append_column(PLACE, places), "the newest of the stream was kept", [SOURCE])


def _counted(summary: Summary, name: str, table: str | None = None) -> dict[str, int]:
    """Return the counts of a raw table as its manifest has them."""
    rows = summary.rows(table or CLEAN_TABLES[name])
    return {"in": summary.count(f"{name}.in"), **dropped_counts(summary, name), "out": rows}


def _added(summary: Summary, name: str) -> dict[str, int]:
    """Return the counts of what was added to a raw table, which must add up.

    Raises:
        CannotFoldError: Some of it takes the place of standing rows.
    """
    if replaced := summary.count(f"{name}.{REPLACED}"):
        what = name.replace("_", " ")
        raise CannotFoldError(f"{replaced} {what} take the place of older ones of their ids")
    added = _counted(summary, name, FRESH_TABLES[name])
    check_equal(name, added["in"], added["out"] + _dropped(added))
    return added


def _select(rows: pa.Table, columns: list[str]) -> pa.Table:
    return rows.select(columns)


def _dropped(counts: Mapping[str, int]) -> int:
    return sum(rows for what, rows in counts.items() if what.startswith("dropped."))


def _require_rows(name: str, counts: Mapping[str, int], files: list[str]) -> None:
    if not counts.get("in") and name not in OPTIONAL:
        raise ValueError(
            f"table {name!r} has no rows: expected at least one in {', '.join(files[:3])}; write data there, "
            "or run `pagewise simulate` or `pagewise import`"
        )


def _notes(workspace: Workspace, name: str) -> dict[str, Any]:
    table = workspace.table(name)
    return dict(table.manifest().notes) if table.exists() else {}


def _days(entries: Sequence[FileEntry]) -> int:
    return len({date_of(entry) for entry in entries})


def _time_span(workspace: Workspace) -> list[str]:
    """Say from when the events are: one from the far future, or seconds taken for milliseconds, moves the split."""
    days = sorted({date_of(entry) for entry in workspace.table(CLEAN).manifest().files})
    return [f"events happened from {days[0]} to {days[-1]}"] if days else []
