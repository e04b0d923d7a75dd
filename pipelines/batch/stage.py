"""What every stage does around its pipeline: run it, check that no row got lost, commit, report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from features.workspace import Workspace
from pipelines.batch.runner import Summary, read_summary, running_pipeline, write_summary
from pipelines.batch.spilling import spilling
from pipelines.report import StageReport, peak_rss_mb

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def run_stage(
    stage: str,
    workspace: Workspace,
    inputs: Mapping[str, str],
    config: DataclassInstance,
    beam_options: Sequence[str],
    build: Callable[[beam.Pipeline, str], list[beam.PCollection]],
) -> Summary:
    """Build and run a pipeline whose results (`Written`, `Counted`) come back as a summary."""
    uri = workspace.root if workspace.is_local else workspace.uri
    document = json.dumps([dict(inputs), dataclasses.asdict(config)], sort_keys=True)
    path = ("runs", stage, hashlib.sha256(document.encode()).hexdigest()[:16], "summary.json")
    folder = workspace.local_path("runs") if workspace.is_local else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with spilling(None if folder is None else str(folder)), running_pipeline(beam_options) as pipeline:
        results = build(pipeline, uri) | "results" >> beam.Flatten()
        write_summary(results, uri, *path)
    return read_summary(workspace, *path)


def check_equal(name: str, rows_in: int, rows_out: int) -> None:
    """Raise unless every row that went in came out or was rejected."""
    if rows_in != rows_out:
        raise RuntimeError(
            f"{name}: {rows_in} rows went in, {rows_out} came out or were rejected; nothing is committed"
        )


def dropped_counts(summary: Summary, name: str) -> dict[str, int]:
    """Return `dropped.<reason>` -> rows of one table."""
    prefix = f"{name}.dropped."
    return {key.removeprefix(f"{name}."): rows for key, rows in summary.counts.items() if key.startswith(prefix)}


def commit_table(
    workspace: Workspace,
    name: str,
    summary: Summary,
    inputs: Mapping[str, str],
    counts: Mapping[str, int],
    notes: Mapping[str, Any],
) -> None:
    """Publish what the pipeline wrote to one table."""
    entries = summary.files.get(name, [])
    workspace.table(name).commit(entries, inputs=inputs, counts={**counts, "out": summary.rows(name)}, notes=notes)


def make_report(
    stage: str,
    workspace: Workspace,
    counts: Mapping[str, int],
    started: float,
    written: list[str],
    notes: Sequence[str] = (),
) -> StageReport:
    """Return the report of a stage that began at `started` (monotonic seconds)."""
    return StageReport(
        name=stage,
        counts=dict(sorted(counts.items())),
        seconds=time.monotonic() - started,
        peak_rss_mb=peak_rss_mb(),
        outputs={name: workspace.table(name).root for name in written},
        notes=tuple(notes),
    )
