"""The stages that train models and measure them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from features.definitions import ITEM_FEATURES, PAGE_FEATURES
from features.workspace import Workspace
from models.genrec.config import GenRecConfig
from models.genrec.pretrained import Checkpoint
from models.ranker.config import RankerConfig
from models.recommend.release_parts import BLEND, GENREC, RANKER, TWO_TOWER
from models.training.alignment import align_genrec
from models.training.blend import train_blend
from models.training.config import TrainConfig
from models.training.genrec import train_genrec
from models.training.position import PublishedTraining
from models.training.ranker import train_ranker
from models.training.reward_days import TooFewDaysError
from models.training.runs import ALIGNED, Runs
from models.training.two_tower import train_two_tower
from models.two_tower.config import TwoTowerConfig
from pipelines.jobs.inputs import StageInputs
from pipelines.jobs.measure import measure
from pipelines.jobs.settings import DailySettings, answers_of
from pipelines.jobs.stages import Progress, Stage, file_fingerprint

REPORT = "report.json"
RANKED_TABLES = ("sequences", "item_statistics", "clean_items", "clean_users", "pages", PAGE_FEATURES, ITEM_FEATURES)
"""What a ranker is trained on."""


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

    def two_tower(self) -> Stage:
        """Sequences and items to a trained two-tower model."""
        tables = self._inputs.tables("sequences", "clean_items", "clean_users", "pages", PAGE_FEATURES)
        settings = self.settings
        return self._training(TWO_TOWER, train_two_tower, settings.two_tower, settings.two_tower_train, tables)

    def ranker(self) -> Stage:
        """Pages to a trained ranker."""
        settings, inputs = self.settings, self._inputs.tables(*RANKED_TABLES)
        return self._training(RANKER, train_ranker, settings.ranker, settings.ranker_train, inputs)

    def align(self) -> Stage:
        """GenRec and pages to an aligned GenRec, or to none where it is switched off or the log is too short."""
        settings = self.settings

        return Stage(
            name="align",
            config={
                "align": dataclasses.asdict(settings.align),
                "ranker": dataclasses.asdict(settings.ranker),
                "train": dataclasses.asdict(settings.ranker_train),
                "decode": dataclasses.asdict(settings.decode),
                "seed": settings.seed,
            },
            inputs=lambda: {
                **self._inputs.tables(*RANKED_TABLES)(),
                **self._inputs.bundle(),
                **self._inputs.pointed_at("checkpoints", GENREC),
            },
            outputs=lambda folder: (
                self._inputs.pointed_at("checkpoints", GENREC, pointer=ALIGNED) or {ALIGNED: "left out"}
            ),
            run=lambda folder: self._aligned(),
        )

    def _aligned(self) -> list[str]:
        """Align GenRec; where that cannot be or shall not be, see to it that the supervised run is taken."""
        settings = self.settings
        if not settings.align.steps:
            return self._not_aligned("align.steps is 0")
        try:
            return align_genrec(
                self.workspace,
                settings.align,
                settings.ranker,
                settings.ranker_train,
                decode=settings.decode,
                seed=settings.seed,
                tracking_uri=settings.tracking.uri,
                progress=self._say,
            ).lines()
        except TooFewDaysError as error:
            return self._not_aligned(str(error))

    def _not_aligned(self, reason: str) -> list[str]:
        Runs(self.workspace, GENREC).forget(ALIGNED)
        return [f"left out, the supervised GenRec is evaluated and released: {reason}"]

    def blend(self) -> Stage:
        """Trained models to the weights of the learned fusion."""
        settings = self.settings
        config, answers, seed = settings.blend, answers_of(settings), settings.seed
        return Stage(
            name="train-blend",
            config={"blend": dataclasses.asdict(config), "answers": dataclasses.asdict(answers), "seed": seed},
            inputs=lambda: self._inputs.released(without=(BLEND,)),
            outputs=lambda folder: self._inputs.pointed_at("checkpoints", BLEND),
            run=lambda folder: train_blend(self.workspace, config, answers, seed=seed, progress=self._say).lines(),
        )

    def semantic_ids(self) -> Stage:
        """Items to semantic IDs."""
        config, seed = self.settings.semantic_ids, self.settings.seed

        def run(folder: Path) -> list[str]:
            # scikit-learn and matplotlib are for whoever makes codes; most runs find them made
            from models.tokenizer.build import build_bundle

            return build_bundle(self.workspace, config, seed, self._say).lines()

        return Stage(
            name="semantic-ids",
            config={"semantic_ids": dataclasses.asdict(config), "seed": seed},
            inputs=lambda: {
                **self._inputs.tables("clean_items", "sequences")(),
                **(self._inputs.pointed_at("checkpoints", TWO_TOWER) if config.collaborative == TWO_TOWER else {}),
            },
            outputs=lambda folder: self._inputs.pointed_at("semantic_ids"),
            run=run,
        )

    def genrec(self) -> Stage:
        """Sequences to a trained GenRec."""
        settings = self.settings

        def inputs() -> dict[str, str]:
            towers = self._inputs.pointed_at("checkpoints", TWO_TOWER) if settings.genrec.user_prefix else {}
            start = settings.genrec.pretrained
            checkpoint = {} if start is None else {"pretrained": Checkpoint.open(start).digest()}
            tables = self._inputs.tables("sequences", "item_statistics")()
            return {**tables, **self._inputs.bundle(), **towers, **checkpoint}

        return self._training(GENREC, train_genrec, settings.genrec, settings.train, inputs)

    def _training(
        self,
        kind: str,
        train: Callable[..., PublishedTraining],
        model: GenRecConfig | RankerConfig | TwoTowerConfig,
        loop: TrainConfig,
        inputs: Callable[[], Mapping[str, str]],
    ) -> Stage:
        """Return the stage that trains a kind of model."""
        seed, uri = self.settings.seed, self.settings.tracking.uri
        return Stage(
            name=f"train-{kind.replace('_', '-')}",
            config={kind: dataclasses.asdict(model), "train": dataclasses.asdict(loop), "seed": seed},
            inputs=inputs,
            outputs=lambda folder: self._inputs.pointed_at("checkpoints", kind),
            run=lambda folder: train(
                self.workspace, model, loop, seed=seed, tracking_uri=uri, progress=self._say
            ).lines(),
        )

    def evaluation(self) -> Stage:
        """Pages, and everything they are made from, beside the baselines."""
        settings = self.settings

        def run(folder: Path) -> list[str]:
            return measure(
                self.workspace,
                settings.evaluate,
                answers_of(settings),
                settings.seed,
                folder=folder,
                tracking_uri=settings.tracking.uri,
                progress=self._say,
            ).lines()

        return Stage(
            name="evaluate",
            config={
                "evaluate": dataclasses.asdict(settings.evaluate),
                "answers": dataclasses.asdict(answers_of(settings)),
                "seed": settings.seed,
            },
            inputs=self._inputs.released,
            outputs=lambda folder: file_fingerprint(self.workspace, "runs", "evaluate", folder.name, REPORT),
            run=run,
        )
