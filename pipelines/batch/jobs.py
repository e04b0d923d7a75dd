"""The three stages of the batch pipelines: `validate`, `build_features`, `build_sequences`.

Every stage runs its pipeline, checks that no row got lost, and only then commits its tables; until then readers see the
tables of the run before. The same inputs and configuration give the same files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from features.schemas import AFTER_SPLIT
from features.workspace import Workspace
from pipelines.batch.config import BatchConfig
from pipelines.batch.entries import PAGE_COLUMNS
from pipelines.batch.feature_transforms import ITEM_STATISTICS, TRANSITIONS, BuildSequences, BuildStatistics
from pipelines.batch.pages_job import build_pages
from pipelines.batch.runner import Summary
from pipelines.batch.split import Splitter, make_splitter
from pipelines.batch.stage import check_equal, commit_table, dropped_counts, make_report, run_stage
from pipelines.batch.transforms import COUNTS, ROWS, ReadTable, WriteShards
from pipelines.batch.validate_job import validate
from pipelines.report import StageReport

__all__ = ["build_features", "build_sequences", "validate"]


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
    counts, note = build_pages(workspace, config, beam_options)
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
    return make_report("features", workspace, counts, started, ["pages", ITEM_STATISTICS, TRANSITIONS], [note])


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


def _counts_of(summary: Summary, name: str) -> dict[str, int]:
    return {"in": summary.count(f"{name}.in"), **dropped_counts(summary, name)}
