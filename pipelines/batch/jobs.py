"""The three stages of the batch pipelines: `validate`, `build_features`, `build_sequences`.

Every stage runs its pipeline, checks that no row got lost, and only then commits its tables; until then readers see the
tables of the run before. The same inputs and configuration give the same files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from features.schemas import CLEAN_TABLES, RAW_TABLES
from features.workspace import Workspace
from pipelines.batch.config import BatchConfig
from pipelines.batch.entries import PAGE_COLUMNS
from pipelines.batch.feature_transforms import ITEM_STATISTICS, TRANSITIONS, BuildPages, BuildSequences, BuildStatistics
from pipelines.batch.raw import FORMATS, fingerprint, raw_files
from pipelines.batch.runner import Summary, read_summary, running_pipeline, write_summary
from pipelines.batch.split import AFTER_SPLIT, Splitter, make_splitter
from pipelines.batch.transforms import (
    COUNTS,
    DEAD,
    ROWS,
    CountRows,
    ReadTable,
    ValidateTable,
    WriteByDay,
    WriteDeadLetters,
    WriteShards,
)
from pipelines.report import StageReport, peak_rss_mb


def validate(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str] = ()) -> StageReport:
    """Check raw tables row by row: `clean_events`, `clean_items`, `clean_users` and `dead_letters`.

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

    summary = _run("validate", workspace, inputs, config, beam_options, build)
    for name in present:
        _check_conservation(summary, name, CLEAN_TABLES[name], files[name])
    dropped = sum(rows for name, rows in summary.counts.items() if ".dropped." in name)
    _check_equal("dead_letters", dropped + summary.count("import_rejects.in"), summary.rows("dead_letters"))
    for name in present:
        _commit(workspace, CLEAN_TABLES[name], summary, inputs, _counts_of(summary, name), _notes(workspace, name))
    _commit(workspace, "dead_letters", summary, inputs, {}, {})
    written = [*(CLEAN_TABLES[name] for name in present), "dead_letters"]
    counts = {**summary.counts, **{f"{name}.out": summary.rows(CLEAN_TABLES[name]) for name in present}}
    return _report("validate", workspace, counts, started, written, "pagewise features")


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

    summary = _run("features", workspace, inputs, config, beam_options, build)
    held_out, hidden = summary.count("entries.held_out"), summary.count(f"entries.dropped.{AFTER_SPLIT}")
    _check_equal("pages", pages.manifest().rows, summary.count("pages.in"))
    _check_equal("page items", summary.count("entries.in"), summary.count("entries.train") + held_out + hidden)
    entry_counts = {"in": summary.count("entries.train"), "held_out": held_out, f"dropped.{AFTER_SPLIT}": hidden}
    for name in (ITEM_STATISTICS, TRANSITIONS):
        _commit(workspace, name, summary, inputs, entry_counts, {**notes, **_split_notes(config, splitter)})
        counts[f"{name}.out"] = summary.rows(name)
    return _report(
        "features", workspace, counts, started, ["pages", ITEM_STATISTICS, TRANSITIONS], "pagewise sequences"
    )


def _build_pages(workspace: Workspace, config: BatchConfig, beam_options: Sequence[str]) -> dict[str, int]:
    events = workspace.table("clean_events")
    manifest = events.manifest()
    inputs, notes = {"clean_events": manifest.fingerprint}, dict(manifest.notes)
    by_day = bool(notes.get("order_only") or notes.get("dates_only"))

    def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
        rows = pipeline | "clean events" >> ReadTable(uri, events)
        pages = rows | "build pages" >> BuildPages(config, by_day=by_day) | "drop shard" >> beam.Values()
        return [
            rows | "count events" >> CountRows("clean_events.in"),
            pages | "write pages" >> WriteByDay(uri, "pages", config.shards),
        ]

    summary = _run("pages", workspace, inputs, config, beam_options, build)
    rows_in = summary.count("clean_events.in")
    _check_equal("clean_events", manifest.rows, rows_in)
    _commit(workspace, "pages", summary, inputs, {"in": rows_in}, notes)
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

    summary = _run("sequences", workspace, inputs, config, beam_options, build)
    _check_equal("pages", manifest.rows, summary.count("pages.in"))
    for name in ("pages", "entries"):
        kept = summary.count(f"{name}.out") + summary.count(f"{name}.dropped.{AFTER_SPLIT}")
        _check_equal(name, summary.count(f"{name}.in"), kept)
    notes = {**manifest.notes, **_split_notes(config, splitter)}
    _commit(workspace, "sequences", summary, inputs, _counts_of(summary, "pages"), notes)
    counts = {**summary.counts, "sequences.out": summary.rows("sequences")}
    return _report("sequences", workspace, counts, started, ["sequences"], "pagewise train genrec")


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


def _run(
    stage: str,
    workspace: Workspace,
    inputs: Mapping[str, str],
    config: BatchConfig,
    beam_options: Sequence[str],
    build: Callable[[beam.Pipeline, str], list[beam.PCollection]],
) -> Summary:
    """Build and run a pipeline whose results (`Written`, `Counted`) come back as a summary."""
    uri = workspace.root if workspace.is_local else workspace.uri
    document = json.dumps([dict(inputs), dataclasses.asdict(config)], sort_keys=True)
    path = ("runs", stage, hashlib.sha256(document.encode()).hexdigest()[:16], "summary.json")
    with running_pipeline(beam_options) as pipeline:
        results = build(pipeline, uri) | "results" >> beam.Flatten()
        write_summary(results, uri, *path)
    return read_summary(workspace, *path)


def _check_conservation(summary: Summary, name: str, clean: str, files: list[str]) -> None:
    rows_in = summary.count(f"{name}.in")
    if not rows_in:
        raise ValueError(
            f"table {name!r} has no rows: expected at least one in {', '.join(files[:3])}; write data there, "
            "or run `pagewise simulate` or `pagewise import`"
        )
    dropped = sum(_dropped(summary, name).values())
    _check_equal(name, rows_in, summary.rows(clean) + dropped)


def _check_equal(name: str, rows_in: int, rows_out: int) -> None:
    if rows_in != rows_out:
        raise RuntimeError(
            f"{name}: {rows_in} rows went in, {rows_out} came out or were rejected; nothing is committed"
        )


def _dropped(summary: Summary, name: str) -> dict[str, int]:
    prefix = f"{name}.dropped."
    return {key.removeprefix(f"{name}."): rows for key, rows in summary.counts.items() if key.startswith(prefix)}


def _counts_of(summary: Summary, name: str) -> dict[str, int]:
    return {"in": summary.count(f"{name}.in"), **_dropped(summary, name)}


def _notes(workspace: Workspace, name: str) -> dict[str, Any]:
    table = workspace.table(name)
    return dict(table.manifest().notes) if table.exists() else {}


def _commit(
    workspace: Workspace,
    name: str,
    summary: Summary,
    inputs: Mapping[str, str],
    counts: Mapping[str, int],
    notes: Mapping[str, Any],
) -> None:
    entries = summary.files.get(name, [])
    workspace.table(name).commit(entries, inputs=inputs, counts={**counts, "out": summary.rows(name)}, notes=notes)


def _report(
    stage: str, workspace: Workspace, counts: Mapping[str, int], started: float, written: list[str], following: str
) -> StageReport:
    return StageReport(
        name=stage,
        counts=dict(sorted(counts.items())),
        seconds=time.monotonic() - started,
        peak_rss_mb=peak_rss_mb(),
        outputs={name: workspace.table(name).root for name in written},
        next_command=following,
    )
