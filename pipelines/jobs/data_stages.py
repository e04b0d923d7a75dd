"""The stages from raw tables to training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from features.definitions import feature_schemas, features_digest
from features.schemas import CLEAN_TABLES
from features.workspace import Workspace
from pipelines.batch.feature_jobs import build_user_and_item_features
from pipelines.batch.jobs import build_features, build_sequences, validate
from pipelines.jobs.inputs import StageInputs
from pipelines.jobs.settings import DailySettings
from pipelines.jobs.stages import Stage


class DataStages:
    """Builds the stages for one workspace.

    Args:
        settings: Sections of all parts.
        workspace: Where everything lies.
        beam_options: Beam's own options.
    """

    def __init__(self, settings: DailySettings, workspace: Workspace, beam_options: Sequence[str]) -> None:
        self.settings, self.workspace = settings, workspace
        self._beam_options = beam_options
        self._inputs = StageInputs(workspace, stream_log=settings.batch.stream_log)

    def validation(self) -> Stage:
        """Raw tables to clean ones."""
        batch = self.settings.batch
        return Stage(
            name="validate",
            config={"shards": batch.shards},
            inputs=self._inputs.raw_tables,
            outputs=self._inputs.tables(*CLEAN_TABLES.values(), "dead_letters"),
            run=lambda folder: validate(self.workspace, batch, self._beam_options).lines(),
        )

    def features(self) -> Stage:
        """Clean events and served pages to pages, what is counted from them, and the features of users and items."""
        batch = self.settings.batch
        read = [CLEAN_TABLES[name] for name in ("events", "items", "served_pages")]

        def run(folder: Path) -> list[str]:
            pages = build_features(self.workspace, batch, self._beam_options)
            folded = build_user_and_item_features(self.workspace, batch, self._beam_options)
            return [*pages.lines(), *folded.lines()]

        return Stage(
            name="features",
            config={**dataclasses.asdict(batch), "features": features_digest()},
            inputs=lambda: {**self._inputs.tables(*read)(), **self._inputs.stream()},
            outputs=self._inputs.tables("pages", "item_statistics", "transitions", *feature_schemas()),
            run=run,
        )

    def sequences(self) -> Stage:
        """Pages to sequences."""
        batch = self.settings.batch
        return Stage(
            name="sequences",
            config={"split": dataclasses.asdict(batch.split), "shards": batch.shards},
            inputs=self._inputs.tables("pages"),
            outputs=self._inputs.tables("sequences"),
            run=lambda folder: build_sequences(self.workspace, batch, self._beam_options).lines(),
        )
