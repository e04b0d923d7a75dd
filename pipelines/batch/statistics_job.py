"""Item statistics and item transitions of the training pages; days that can change no more are read condensed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apache_beam as beam

from features.schemas import AFTER_SPLIT
from features.workspace import FileEntry, Workspace
from pipelines.batch.config import BatchConfig
from pipelines.batch.entries import PAGE_COLUMNS
from pipelines.batch.feature_transforms import (
    ITEM_STATISTICS,
    OPEN,
    TRAINING_COUNTS,
    TRAINING_PAGES,
    TRANSITIONS,
    BuildStatistics,
    Condense,
)
from pipelines.batch.increment import (
    SETTINGS,
    SOFTWARE,
    CannotFoldError,
    date_of,
    file_inputs,
    made_with,
    require_equal,
    standing,
)
from pipelines.batch.runner import Summary
from pipelines.batch.split import make_splitter, split_notes
from pipelines.batch.stage import check_equal, commit_table, run_stage
from pipelines.batch.transforms import COUNTS, ReadTable, WriteByDay, WriteShards

_CONDENSED = (TRAINING_PAGES, TRAINING_COUNTS)


def build_statistics(
    workspace: Workspace, config: BatchConfig, beam_options: Sequence[str]
) -> tuple[dict[str, int], str]:
    """Commit `item_statistics` and `transitions`; return counts, and a line that says what was reused.

    Raises:
        MissingTableError: There are no `pages`.
        ValueError: The split leaves no training pages.
    """
    job = _Statistics(workspace, config, beam_options)
    summary = job.condensed() if job.splitter.validation_ms is not None else job.whole()
    counts = job.counts(summary)
    notes = {**job.manifest.notes, **split_notes(config.split, job.splitter)}
    for name in (ITEM_STATISTICS, TRANSITIONS):
        commit_table(workspace, name, summary, job.inputs, counts, notes)
    days = len({date_of(entry) for entry in job.manifest.files})
    rows = {f"{name}.out": summary.rows(name) for name in (ITEM_STATISTICS, TRANSITIONS)}
    return rows, f"statistics: {len(job.known)} of {days} days were read condensed"


class _Statistics:
    """One run of the stage.

    Attributes:
        known: Days of which condensed pages stand.
    """

    def __init__(self, workspace: Workspace, config: BatchConfig, beam_options: Sequence[str]) -> None:
        self.workspace, self.config, self.beam_options = workspace, config, beam_options
        self.pages = workspace.table("pages")
        self.manifest = self.pages.manifest()
        self.inputs = {"pages": self.manifest.fingerprint}
        self.files = file_inputs("pages", self.manifest.files)
        self.splitter = make_splitter(config.split, self.pages)
        self.tables = {name: workspace.table(name) for name in _CONDENSED}
        self.known: set[str] = set()

    def whole(self) -> Summary:
        """Read all pages: where users' last pages are held out, what trains may cease to."""

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            pages = pipeline | "pages" >> ReadTable(uri, self.pages, PAGE_COLUMNS)
            others = pipeline | "no others" >> beam.Create([])
            return self._written((pages, others) | "statistics" >> BuildStatistics(self.config, self.splitter), uri)

        summary = self._run(build)
        held_out, hidden = summary.count("entries.held_out"), summary.count(f"entries.dropped.{AFTER_SPLIT}")
        check_equal("pages", self.manifest.rows, summary.count("pages.in"))
        check_equal("page items", summary.count("entries.in"), summary.count("entries.train") + held_out + hidden)
        return summary

    def condensed(self) -> Summary:
        """Read the days that can still change, and of the others what was condensed."""
        inputs = {**made_with(), "validation_ms": str(self.splitter.validation_ms)}
        known, kept = self._standing(inputs)
        self.known = known

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            read = pipeline | "pages" >> ReadTable(uri, self.pages, PAGE_COLUMNS, without=known)
            found = read | "condensed" >> Condense(self.config.shards, self.splitter)
            written = [
                found[name] | f"write {name}" >> WriteByDay(uri, name, self.config.shards) for name in _CONDENSED
            ]
            both = []
            for name in _CONDENSED:
                parts = [found[name]]
                if kept[name]:
                    parts.append(pipeline | f"standing {name}" >> ReadTable(uri, self.tables[name], only=known))
                both.append(parts | f"all {name}" >> beam.Flatten())
            outputs = (both[0], both[1]) | "statistics" >> BuildStatistics(self.config, self.splitter)
            return [*written, found[COUNTS], *self._written(outputs, uri)]

        summary = self._run(build)
        self._check(summary)
        closed = known | {
            date_of(entry) for entry in self.manifest.files if not summary.counts.get(f"{OPEN}.{date_of(entry)}")
        }
        inputs |= {name: digest for name, digest in self.files.items() if _day_of_input(name) in closed}
        for name in _CONDENSED:
            fresh = [entry for entry in summary.files.get(name, []) if date_of(entry) in closed]
            self.tables[name].commit([*kept[name], *fresh], inputs=inputs)
        return summary

    def counts(self, summary: Summary) -> dict[str, int]:
        """Return the counts of the manifests: entries that train, are held out, and are hidden by the split."""
        hidden = summary.count(f"entries.dropped.{AFTER_SPLIT}")
        train = summary.count("entries.train")
        return {"in": train, "held_out": summary.count("entries.held_out"), f"dropped.{AFTER_SPLIT}": hidden}

    def _check(self, summary: Summary) -> None:
        """Check that no page of the days that were read got lost, and no entry."""
        read = [entry for entry in self.manifest.files if date_of(entry) not in self.known]
        check_equal("pages", sum(entry.rows for entry in read), summary.count("pages.read"))
        others = summary.count("entries.held_out") + summary.count(f"entries.dropped.{AFTER_SPLIT}")
        condensed = summary.count("entries.condensed")
        check_equal("page items", summary.count("entries.read"), condensed + others)

    def _standing(self, inputs: dict[str, str]) -> tuple[set[str], dict[str, list[FileEntry]]]:
        """Return the days whose condensed pages are those of the pages as they are, and the files of these days."""
        nothing: dict[str, list[FileEntry]] = {name: [] for name in _CONDENSED}
        try:
            before = standing(self.tables.values())
            known = before[TRAINING_PAGES].inputs
            require_equal(known, inputs, SETTINGS, SOFTWARE)
        except CannotFoldError:
            return set(), nothing
        if int(known["validation_ms"]) > int(inputs["validation_ms"]):
            return set(), nothing
        days = {_day_of_input(name) for name, digest in self.files.items() if known.get(name) == digest}
        return days, {name: [entry for entry in before[name].files if date_of(entry) in days] for name in _CONDENSED}

    def _written(self, outputs: dict[str, beam.PCollection], uri: str) -> list[beam.PCollection]:
        written = [outputs[name] | f"write {name}" >> WriteShards(uri, name) for name in (ITEM_STATISTICS, TRANSITIONS)]
        return [*written, outputs[COUNTS]]

    def _run(self, build: Callable[[beam.Pipeline, str], list[beam.PCollection]]) -> Summary:
        return run_stage("features", self.workspace, self.inputs, self.config, self.beam_options, build)


def _day_of_input(name: str) -> str:
    """Return the day of the file of pages that an input names."""
    return name.split("/")[1].removeprefix("date=")
