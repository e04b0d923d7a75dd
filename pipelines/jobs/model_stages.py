"""The stages that train models and measure them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from features.workspace import Workspace
from models.tokenizer.build import build_bundle
from models.training.genrec import train_genrec
from pipelines.jobs.inputs import StageInputs
from pipelines.jobs.measure import measure
from pipelines.jobs.settings import DailySettings
from pipelines.jobs.stages import Progress, Stage, file_fingerprint

REPORT = "report.json"


class ModelStages:
    """Builds the stages for one workspace.

    Args:
        settings: Sections of all parts.
        workspace: Where everything lies.
        progress: Told what long stages do.
    """

    def __init__(self, settings: DailySettings, workspace: Workspace, progress: Progress) -> None:
        self.settings, self.workspace = settings, workspace
        self._inputs = StageInputs(workspace)
        self._say: Progress = lambda line: progress(f"  {line}")

    def semantic_ids(self) -> Stage:
        """Items to semantic IDs."""
        config, seed = self.settings.semantic_ids, self.settings.seed
        return Stage(
            name="semantic-ids",
            config={"semantic_ids": dataclasses.asdict(config), "seed": seed},
            inputs=self._inputs.tables("clean_items", "sequences"),
            outputs=lambda folder: self._inputs.pointed_at("semantic_ids"),
            run=lambda folder: build_bundle(self.workspace, config, seed, self._say).lines(),
        )

    def genrec(self) -> Stage:
        """Sequences to a trained GenRec."""
        settings = self.settings
        return Stage(
            name="train-genrec",
            config={
                "genrec": dataclasses.asdict(settings.genrec),
                "train": dataclasses.asdict(settings.train),
                "seed": settings.seed,
            },
            inputs=lambda: {**self._inputs.tables("sequences", "item_statistics")(), **self._inputs.bundle()},
            outputs=lambda folder: self._inputs.pointed_at("checkpoints", "genrec"),
            run=lambda folder: train_genrec(
                self.workspace,
                settings.genrec,
                settings.train,
                seed=settings.seed,
                tracking_uri=settings.tracking.uri,
                progress=self._say,
            ).lines(),
        )

    def evaluation(self) -> Stage:
        """GenRec beside its baselines."""
        settings = self.settings

        def run(folder: Path) -> list[str]:
            return measure(
                self.workspace,
                settings.evaluate,
                settings.decode,
                settings.seed,
                folder=folder,
                tracking_uri=settings.tracking.uri,
                progress=self._say,
            ).lines()

        tables = self._inputs.tables("sequences", "item_statistics", "transitions", "clean_items")
        return Stage(
            name="evaluate",
            config={
                "evaluate": dataclasses.asdict(settings.evaluate),
                "decode": dataclasses.asdict(settings.decode),
                "seed": settings.seed,
            },
            inputs=lambda: {**tables(), **self._inputs.bundle(), **self._inputs.pointed_at("checkpoints", "genrec")},
            outputs=lambda folder: file_fingerprint(self.workspace, "runs", "evaluate", folder.name, REPORT),
            run=run,
        )
