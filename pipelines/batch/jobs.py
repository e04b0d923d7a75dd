"""The three stages of the batch pipelines: `validate`, `build_features`, `build_sequences`.

Every stage runs its pipeline, checks that no row got lost, and only then commits its tables; until then readers see the
tables of the run before. The same inputs and configuration give the same files, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import apache_beam as beam

from features.schemas import AFTER_SPLIT
from features.workspace import Workspace
from pipelines.batch.config import BatchConfig
from pipelines.batch.entries import PAGE_COLUMNS
from pipelines.batch.feature_transforms import ITEM_STATISTICS, TRANSITIONS, BuildSequences
from pipelines.batch.pages_job import build_pages
from pipelines.batch.runner import Summary
from pipelines.batch.split import make_splitter, split_notes, thin_days
from pipelines.batch.stage import check_equal, commit_table, dropped_counts, make_report, run_stage
from pipelines.batch.statistics_job import build_statistics
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
    rows, reused = build_statistics(workspace, config, beam_options)
    written = ["pages", ITEM_STATISTICS, TRANSITIONS]
    return make_report("features", workspace, {**counts, **rows}, started, written, [note, reused])


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
    notes = {**manifest.notes, **split_notes(config.split, splitter)}
    commit_table(workspace, "sequences", summary, inputs, _counts_of(summary, "pages"), notes)
    counts = {**summary.counts, "sequences.out": summary.rows("sequences")}
    return make_report("sequences", workspace, counts, started, ["sequences"], thin_days(splitter, manifest))


def _counts_of(summary: Summary, name: str) -> dict[str, int]:
    return {"in": summary.count(f"{name}.in"), **dropped_counts(summary, name)}
