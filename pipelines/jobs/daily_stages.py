"""The stages of the daily job: what each one reads, what decides its result, what it writes, what it calls."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.redis_store import open_store
from features.workspace import MANIFEST, Workspace
from models.genrec.config import DecodeConfig, GenRecConfig
from models.recommend.config import RecommendConfig
from models.recommend.recommender import GENREC
from models.recommend.release import latest_release, write_release
from models.registry import CHAMPION, Registry
from models.tokenizer.build import build_bundle
from models.tokenizer.bundle import append_numbers, latest_generation
from models.tokenizer.config import SemanticIdConfig
from models.training.config import TrainConfig
from models.training.genrec import train_genrec
from pipelines.batch.config import BatchConfig
from pipelines.batch.jobs import build_features, build_sequences, validate
from pipelines.batch.raw import fingerprint, raw_files
from pipelines.evaluation.config import EvaluateConfig
from pipelines.jobs.measure import measure
from pipelines.jobs.stages import Progress, Stage, file_fingerprint, table_fingerprints

REPORT = "report.json"
REGISTERED = ("releases", "REGISTERED")
"""What the last run registered: release id, version, and whether it became the champion."""


class Tracking(Protocol):
    """Where MLflow is."""

    @property
    def uri(self) -> str | None:
        """A server or database, None for the workspace's own."""


class DailySettings(Protocol):
    """The sections of the settings that the daily job reads."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> BatchConfig: ...  # noqa: D102
    @property
    def semantic_ids(self) -> SemanticIdConfig: ...  # noqa: D102
    @property
    def genrec(self) -> GenRecConfig: ...  # noqa: D102
    @property
    def decode(self) -> DecodeConfig: ...  # noqa: D102
    @property
    def train(self) -> TrainConfig: ...  # noqa: D102
    @property
    def evaluate(self) -> EvaluateConfig: ...  # noqa: D102
    @property
    def recommend(self) -> RecommendConfig: ...  # noqa: D102
    @property
    def store(self) -> StoreConfig: ...  # noqa: D102
    @property
    def tracking(self) -> Tracking: ...  # noqa: D102


class DailyStages:
    """Builds the stages for one workspace.

    Args:
        settings: Sections of all parts.
        workspace: Where everything lies.
        progress: Told what long stages do.
        beam_options: Beam's own options.
        force: Promote the new release even where there is a champion.
    """

    def __init__(
        self,
        settings: DailySettings,
        workspace: Workspace,
        progress: Progress,
        beam_options: Sequence[str] = (),
        force: bool = False,
    ) -> None:
        self.settings, self.workspace, self.force = settings, workspace, force
        self._beam_options = beam_options
        self._say: Progress = lambda line: progress(f"  {line}")

    def all(self) -> list[Stage]:
        """Return the stages in order."""
        evaluation = self.evaluation()
        return [
            self.validation(),
            self.features(),
            self.sequences(),
            self.semantic_ids(),
            self.training(),
            evaluation,
            self.release(evaluation),
            self.store(),
            self.registration(),
        ]

    def validation(self) -> Stage:
        """Raw tables to clean ones."""
        batch = self.settings.batch
        return Stage(
            name="validate",
            config={"shards": batch.shards},
            inputs=self._raw_tables,
            outputs=self._tables("clean_events", "clean_items", "clean_users", "dead_letters"),
            run=lambda folder: validate(self.workspace, batch, self._beam_options).lines(),
        )

    def features(self) -> Stage:
        """Clean events to pages, item statistics and transitions."""
        batch = self.settings.batch
        return Stage(
            name="features",
            config=dataclasses.asdict(batch),
            inputs=self._tables("clean_events"),
            outputs=self._tables("pages", "item_statistics", "transitions"),
            run=lambda folder: build_features(self.workspace, batch, self._beam_options).lines(),
        )

    def sequences(self) -> Stage:
        """Pages to sequences."""
        batch = self.settings.batch
        return Stage(
            name="sequences",
            config={"split": dataclasses.asdict(batch.split), "shards": batch.shards},
            inputs=self._tables("pages"),
            outputs=self._tables("sequences"),
            run=lambda folder: build_sequences(self.workspace, batch, self._beam_options).lines(),
        )

    def semantic_ids(self) -> Stage:
        """Items to semantic IDs."""
        config, seed = self.settings.semantic_ids, self.settings.seed
        return Stage(
            name="semantic-ids",
            config={"semantic_ids": dataclasses.asdict(config), "seed": seed},
            inputs=self._tables("clean_items", "sequences"),
            outputs=lambda folder: self._pointed_at("semantic_ids"),
            run=lambda folder: build_bundle(self.workspace, config, seed, self._say).lines(),
        )

    def training(self) -> Stage:
        """Sequences to a trained GenRec."""
        settings = self.settings
        return Stage(
            name="train-genrec",
            config={
                "genrec": dataclasses.asdict(settings.genrec),
                "train": dataclasses.asdict(settings.train),
                "seed": settings.seed,
            },
            inputs=lambda: {**self._tables("sequences", "item_statistics")(), **self._bundle()},
            outputs=lambda folder: self._pointed_at("checkpoints", "genrec"),
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

        tables = self._tables("sequences", "item_statistics", "transitions", "clean_items")
        return Stage(
            name="evaluate",
            config={
                "evaluate": dataclasses.asdict(settings.evaluate),
                "decode": dataclasses.asdict(settings.decode),
                "seed": settings.seed,
            },
            inputs=lambda: {**tables(), **self._bundle(), **self._pointed_at("checkpoints", "genrec")},
            outputs=lambda folder: file_fingerprint(self.workspace, "runs", "evaluate", folder.name, REPORT),
            run=run,
        )

    def release(self, evaluation: Stage) -> Stage:
        """Everything pages are made of, in one folder; the evaluation's metrics travel with it."""
        settings = self.settings

        def run(folder: Path) -> list[str]:
            manifest = write_release(
                self.workspace.local_path("releases"),
                self.workspace,
                config=settings.recommend,
                decode=settings.decode,
                genrec_run=self._read("checkpoints", "genrec", "LATEST"),
                metrics=_genrec_metrics(evaluation.folder(self.workspace) / REPORT),
                progress=self._say,
            )
            return [
                f"release {manifest.release_id}: {', '.join(manifest.retrievers)} on semantic IDs "
                f"{manifest.generation}, {len(manifest.files)} files"
            ]

        tables = self._tables("sequences", "item_statistics", "transitions", "clean_items")
        return Stage(
            name="release",
            config={
                "recommend": dataclasses.asdict(settings.recommend),
                "decode": dataclasses.asdict(settings.decode),
            },
            inputs=lambda: {
                **tables(),
                **self._bundle(),
                **self._pointed_at("checkpoints", "genrec"),
                "evaluation": "".join(evaluation.outputs(evaluation.folder(self.workspace)).values()),
            },
            outputs=lambda folder: self._pointed_at("releases"),
            run=run,
        )

    def store(self) -> Stage:
        """Histories and item facts into the online store."""
        config = self.settings.store

        def run(folder: Path) -> list[str]:
            with open_store(config, self.workspace) as store:
                return backfill(self.workspace, store, config).lines()

        def outputs(folder: Path) -> Mapping[str, str]:
            with open_store(config, self.workspace) as store:
                freshness = store.freshness()
            return {} if freshness is None else {"store": freshness.generation}

        return Stage(
            name="store",
            # without the URL, which may hold a password: another store does not hold the recorded generation
            config={key: value for key, value in dataclasses.asdict(config).items() if key not in ("url", "timeout_s")},
            inputs=self._tables("sequences", "clean_items"),
            outputs=outputs,
            run=run,
        )

    def registration(self) -> Stage:
        """Newest release to the registry; it becomes the champion where there is none, or by force."""
        uri = self.settings.tracking.uri

        def run(folder: Path) -> list[str]:
            registry = Registry(self.workspace, uri)
            release = latest_release(self.workspace.local_path("releases"))
            version = registry.register(release)
            promoted = None
            if self.force or registry.version(CHAMPION) in (None, version):
                promoted = registry.promote(version, force=self.force)
            document = {"release_id": release.name, "version": version, "promoted_by": promoted}
            self.workspace.write_bytes(json.dumps(document).encode(), *REGISTERED)
            return [_said(version, release.name, promoted), f"registry: {registry.address}"]

        def outputs(folder: Path) -> Mapping[str, str]:
            lost = uri is None and not self.workspace.local_path("mlflow.db").exists()
            return {} if lost else file_fingerprint(self.workspace, *REGISTERED)

        return Stage(
            name="register",
            # a digest of the URI, which may hold a password
            config={"force": self.force, "uri": hashlib.sha256((uri or "").encode()).hexdigest()[:16]},
            inputs=lambda: self._pointed_at("releases"),
            outputs=outputs,
            run=run,
        )

    def _raw_tables(self) -> dict[str, str]:
        """Return fingerprints of the raw tables, committed or plain files, and the notes of committed ones."""
        found = {
            name: fingerprint(self.workspace, name)
            for name in ("events", "items", "users")
            if raw_files(self.workspace, name)
        }
        notes = table_fingerprints(self.workspace, "events", "items", "users", "import_rejects")
        return {**found, **{f"{name} manifest": digest for name, digest in notes.items()}}

    def _tables(self, *names: str) -> Any:
        """Return a function that fingerprints the committed ones of these tables."""
        return lambda folder=None: table_fingerprints(self.workspace, *names)

    def _bundle(self) -> dict[str, str]:
        generation = latest_generation(self.workspace)
        appends = append_numbers(self.workspace, generation)
        return {"semantic_ids": "+".join([generation, *appends])}

    def _pointed_at(self, *folder: str) -> dict[str, str]:
        """Return what the folder's LATEST names and the digest of its manifest."""
        latest = self.workspace.local_path(*folder, "LATEST")
        if not latest.exists():
            return {}
        name = self._read(*folder, "LATEST")
        return {"/".join([*folder, "LATEST"]): name, **file_fingerprint(self.workspace, *folder, name, MANIFEST)}

    def _read(self, *parts: str) -> str:
        return self.workspace.read_bytes(*parts).decode().strip()


def _genrec_metrics(path: Path) -> dict[str, float]:
    """Return GenRec's means from an evaluation report."""
    results = json.loads(path.read_bytes())["results"]
    metrics = next(result["metrics"] for result in results if result["name"] == GENREC)
    return {name: float(interval["mean"]) for name, interval in metrics.items()}


def _said(version: int, release_id: str, promoted: str | None) -> str:
    if promoted is None:
        return (
            f"version {version} (release {release_id}) is the challenger; promote it with "
            f"`pagewise promote --version {version} --force` or a replay verdict"
        )
    return f"version {version} (release {release_id}) is the champion, promoted: {promoted}"
