"""The three stages of the batch pipelines: `validate`, `build_features`, `build_sequences`.

Every stage runs its pipeline, checks that no row got lost, and only then commits its tables; until then readers see the
tables of the run before. The same inputs and configuration give the same files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam

from features.schemas import AFTER_SPLIT, CLEAN_TABLES, RAW_TABLES
from features.workspace import Workspace
from pipelines.batch.config import BatchConfig
from pipelines.batch.entries import PAGE_COLUMNS
from pipelines.batch.feature_transforms import ITEM_STATISTICS, TRANSITIONS, BuildPages, BuildSequences, BuildStatistics
from pipelines.batch.raw import FORMATS, fingerprint, raw_files
from pipelines.batch.runner import Summary
from pipelines.batch.split import Splitter, make_splitter
from pipelines.batch.stage import check_equal, commit_table, dropped_counts, make_report, run_stage
from pipelines.batch.transforms import COUNTS, DEAD, ROWS, CountRows, ReadTable, WriteByDay, WriteShards
from pipelines.batch.validate_transforms import ValidateTable, WriteDeadLetters
from pipelines.report import StageReport


def validate(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str] = ()) -> StageReport:
    """Check raw tables row by row: `clean_events`, `clean_items`, `clean_users` and `dead_letters`.

    Where there are no `users` any more, a `clean_users` of an earlier run becomes empty.

    Args:
        workspace: Holds the raw tables `events`, `items` and perhaps `users`, committed or as plain files.
        config: Uses `shards`.
        beam_options: Beam's own options; default: in this process.

    Raises:
        FileNotFoundError: There is no `events` or no `items` table.
        ValueError: A table has no rows, a file cannot be read, columns are missing or unknown.
    """
    started = time.monotonic()
    files = {name: raw_files(workspace, name) for name in RAW_TABLES}
    _require_tables(workspace, files)
    present = [name for name in RAW_TABLES if files[name]]
    inputs = {name: fingerprint(workspace, name) for name in present}
    rejects = workspace.table("import_rejects")
    if rejects.exists():
        inputs["import_rejects"] = rejects.manifest().fingerprint

    def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
        outputs = [
            pipeline | f"validate {name}" >> ValidateTable(uri, name, files[name], config.shards) for name in present
        ]
        dead, results = [output[DEAD] for output in outputs], []
        if rejects.exists():
            dead.append(pipeline | "import rejects" >> ReadTable(uri, rejects))
            results.append(dead[-1] | "count import rejects" >> CountRows("import_rejects.in"))
        letters = dead | "all dead letters" >> beam.Flatten()
        results.append(letters | "write dead letters" >> WriteDeadLetters(uri, config.shards))
        return [*results, *(output[kind] for output in outputs for kind in (ROWS, COUNTS))]

    summary = run_stage("validate", workspace, inputs, config, beam_options, build)
    for name in present:
        _check_conservation(summary, name, CLEAN_TABLES[name], files[name])
    dropped = sum(rows for name, rows in summary.counts.items() if ".dropped." in name)
    check_equal("dead_letters", dropped + summary.count("import_rejects.in"), summary.rows("dead_letters"))
    for name in present:
        commit_table(workspace, CLEAN_TABLES[name], summary, inputs, _counts_of(summary, name), _notes(workspace, name))
    for name in RAW_TABLES.keys() - present:
        if workspace.table(CLEAN_TABLES[name]).exists():
            commit_table(workspace, CLEAN_TABLES[name], summary, inputs, {}, {})
    commit_table(workspace, "dead_letters", summary, inputs, {}, {})
    written = [*(CLEAN_TABLES[name] for name in present), "dead_letters"]
    counts = {**summary.counts, **{f"{name}.out": summary.rows(CLEAN_TABLES[name]) for name in present}}
    return make_report("validate", workspace, counts, started, written, _time_span(workspace))


def _time_span(workspace: Workspace) -> list[str]:
    """Say from when the events are: one from the far future, or seconds taken for milliseconds, moves the split."""
    entries = workspace.table("clean_events").manifest().files
    days = sorted(entry.path.split("/")[0].removeprefix("date=") for entry in entries)
    return [f"events happened from {days[0]} to {days[-1]}"] if days else []


def build_features(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str] = ()) -> StageReport:
    """Build `pages` from `clean_events`, then `item_statistics` and `transitions` from the training pages.

    Args:
        workspace: `validate` has run in it.
        config: Everything but `shards` changes the rows.
        beam_options: Beam's own options; default: in this process.

    Raises:
        MissingTableError: `validate` has not run.
        ValueError: The split leaves no training pages.
    """
    started = time.monotonic()
    counts = _build_pages(workspace, config, beam_options)
    pages = workspace.table("pages")
    inputs, notes = {"pages": pages.manifest().fingerprint}, pages.manifest().notes
    splitter = make_splitter(config.split, pages)

    def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
        outputs = (
            pipeline
            | "pages" >> ReadTable(uri, pages, PAGE_COLUMNS)
            | "statistics" >> BuildStatistics(config, splitter)
        )
        written = [outputs[name] | f"write {name}" >> WriteShards(uri, name) for name in (ITEM_STATISTICS, TRANSITIONS)]
        return [*written, outputs[COUNTS]]

    summary = run_stage("features", workspace, inputs, config, beam_options, build)
    held_out, hidden = summary.count("entries.held_out"), summary.count(f"entries.dropped.{AFTER_SPLIT}")
    check_equal("pages", pages.manifest().rows, summary.count("pages.in"))
    check_equal("page items", summary.count("entries.in"), summary.count("entries.train") + held_out + hidden)
    entry_counts = {"in": summary.count("entries.train"), "held_out": held_out, f"dropped.{AFTER_SPLIT}": hidden}
    for name in (ITEM_STATISTICS, TRANSITIONS):
        commit_table(workspace, name, summary, inputs, entry_counts, {**notes, **_split_notes(config, splitter)})
        counts[f"{name}.out"] = summary.rows(name)
    return make_report("features", workspace, counts, started, ["pages", ITEM_STATISTICS, TRANSITIONS])


def _build_pages(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str]) -> dict[str, int]:
    events = workspace.table("clean_events")
    manifest = events.manifest()
    if not manifest.rows:
        raise ValueError("table 'clean_events' has no rows: every event was rejected; table dead_letters tells why")
    inputs, notes = {"clean_events": manifest.fingerprint}, dict(manifest.notes)
    by_day = bool(notes.get("order_only") or notes.get("dates_only"))

    def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
        rows = pipeline | "clean events" >> ReadTable(uri, events)
        pages = rows | "build pages" >> BuildPages(config, by_day=by_day) | "drop shard" >> beam.Values()
        return [
            rows | "count events" >> CountRows("clean_events.in"),
            pages | "write pages" >> WriteByDay(uri, "pages", config.shards),
        ]

    summary = run_stage("pages", workspace, inputs, config, beam_options, build)
    rows_in = summary.count("clean_events.in")
    check_equal("clean_events", manifest.rows, rows_in)
    commit_table(workspace, "pages", summary, inputs, {"in": rows_in}, notes)
    return {"clean_events.in": rows_in, "pages.out": summary.rows("pages")}


def build_sequences(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str] = ()) -> StageReport:
    """Build `sequences` from `pages`: per user and split, pages oldest first, in response order.

    Args:
        workspace: `build_features` has run in it.
        config: Uses `split` and `shards`.
        beam_options: Beam's own options; default: in this process.

    Raises:
        MissingTableError: `build_features` has not run.
        ValueError: The split leaves no training pages.
    """
    started = time.monotonic()
    pages = workspace.table("pages")
    manifest = pages.manifest()
    inputs = {"pages": manifest.fingerprint}
    splitter = make_splitter(config.split, pages)

    def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
        built = (
            pipeline | "pages" >> ReadTable(uri, pages, PAGE_COLUMNS) | "sequences" >> BuildSequences(config, splitter)
        )
        return [built[ROWS] | "write sequences" >> WriteShards(uri, "sequences"), built[COUNTS]]

    summary = run_stage("sequences", workspace, inputs, config, beam_options, build)
    check_equal("pages", manifest.rows, summary.count("pages.in"))
    for name in ("pages", "entries"):
        kept = summary.count(f"{name}.out") + summary.count(f"{name}.dropped.{AFTER_SPLIT}")
        check_equal(name, summary.count(f"{name}.in"), kept)
    notes = {**manifest.notes, **_split_notes(config, splitter)}
    commit_table(workspace, "sequences", summary, inputs, _counts_of(summary, "pages"), notes)
    counts = {**summary.counts, "sequences.out": summary.rows("sequences")}
    return make_report("sequences", workspace, counts, started, ["sequences"])


def _split_notes(config: BatchConfig, splitter: Splitter) -> dict[str, Any]:
    return {"split": {"protocol": config.split.protocol, **dataclasses.asdict(splitter)}}


def _require_tables(workspace: Workspace, files: Mapping[str, list[str]]) -> None:
    missing = [name for name in ("events", "items") if not files[name]]
    if missing:
        folders = " and ".join(workspace.table(name).root for name in missing)
        raise FileNotFoundError(
            f"no {' and no '.join(missing)} table: expected files ({', '.join(FORMATS)}) in {folders}; "
            "put your data there, or run `pagewise simulate` or `pagewise import`"
        )


def _check_conservation(summary: Summary, name: str, clean: str, files: list[str]) -> None:
    rows_in = summary.count(f"{name}.in")
    if not rows_in:
        raise ValueError(
            f"table {name!r} has no rows: expected at least one in {', '.join(files[:3])}; write data there, "
            "or run `pagewise simulate` or `pagewise import`"
        )
    dropped = sum(dropped_counts(summary, name).values())
    check_equal(name, rows_in, summary.rows(clean) + dropped)


def _counts_of(summary: Summary, name: str) -> dict[str, int]:
    return {"in": summary.count(f"{name}.in"), **dropped_counts(summary, name)}


def _notes(workspace: Workspace, name: str) -> dict[str, Any]:
    table = workspace.table(name)
    return dict(table.manifest().notes) if table.exists() else {}
