"""The stages from trained models to a registered release and a filled online store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from features.definitions import ITEM_FEATURES, USER_STATES
from features.store.backfill import backfill
from features.store.redis_store import open_store
from features.workspace import Workspace
from models.recommend.recommender import PAGE
from models.recommend.release import write_release
from models.recommend.release_manifest import ReleaseManifest, latest_release
from models.recommend.release_parts import RANKER, latest_runs
from models.registry import CHAMPION, Registry, RegistryError
from pipelines.batch.raw_inputs import stream_position
from pipelines.jobs.inputs import StageInputs
from pipelines.jobs.model_stages import REPORT
from pipelines.jobs.replay_stage import REGISTERED, ReplayStage
from pipelines.jobs.settings import DailySettings, answers_of
from pipelines.jobs.stages import Progress, Stage, file_fingerprint
from pipelines.streaming.online import online_config


class ReleaseStages:
    """Builds the stages for one workspace.

    Args:
        settings: Sections of all parts.
        workspace: Where everything lies.
        progress: Told what long stages do.
        force: Promote the new release even where there is a champion.
    """

    def __init__(self, settings: DailySettings, workspace: Workspace, progress: Progress, force: bool) -> None:
        self.settings, self.workspace, self.force = settings, workspace, force
        self._inputs = StageInputs(workspace)
        self._say: Progress = lambda line: progress(f"  {line}")

    def release(self, evaluation: Stage) -> Stage:
        """Everything pages are made of, in one folder; the evaluation's metrics travel with it."""
        settings = self.settings

        def run(folder: Path) -> list[str]:
            manifest = write_release(
                self.workspace.local_path("releases"),
                self.workspace,
                config=answers_of(settings),
                runs=latest_runs(self.workspace, self._say),
                metrics=_page_metrics(evaluation.folder(self.workspace) / REPORT),
                progress=self._say,
            )
            parts = ", ".join([*manifest.retrievers, *_ranker(manifest)])
            return [
                f"release {manifest.release_id}: {parts} on semantic IDs "
                f"{manifest.generation}, {len(manifest.files)} files"
            ]

        return Stage(
            name="release",
            config=dataclasses.asdict(answers_of(settings)),
            inputs=lambda: {
                **self._inputs.released(),
                "evaluation": "".join(evaluation.outputs(evaluation.folder(self.workspace)).values()),
            },
            outputs=lambda folder: self._inputs.pointed_at("releases"),
            run=run,
        )

    def store(self) -> Stage:
        """Histories and item facts into the online store."""
        settings, config = self.settings, self.settings.store
        online = online_config(settings.stream, settings.batch.pages, config)

        def run(folder: Path) -> list[str]:
            with open_store(config, self.workspace) as store:
                position = stream_position(self.workspace.table("clean_events").manifest())
                return backfill(self.workspace, store, config, position=position, online=online).lines()

        def outputs(folder: Path) -> Mapping[str, str]:
            with open_store(config, self.workspace) as store:
                freshness = store.freshness()
            return {} if freshness is None else {"store": freshness.generation}

        return Stage(
            name="store",
            # without the URL, which may hold a password: another store does not hold the recorded generation
            config={key: value for key, value in dataclasses.asdict(config).items() if key not in ("url", "timeout_s")}
            | {"online": dataclasses.asdict(online)},
            inputs=self._inputs.tables(
                "sequences", "clean_events", "clean_items", "clean_users", ITEM_FEATURES, USER_STATES
            ),
            outputs=outputs,
            run=run,
        )

    def registration(self, replayed: ReplayStage) -> Stage:
        """Newest release to the registry; it becomes the champion where there is none, by its verdict, or by force."""
        uri, verdict = self.settings.tracking.uri, replayed.stage()

        def run(folder: Path) -> list[str]:
            registry = Registry(self.workspace, uri, self._say)
            release = latest_release(self.workspace.local_path("releases"))
            version, against = registry.register(release), replayed.against()
            promoted, reason = self._promoted(registry, version, replayed)
            document = {"release_id": release.name, "version": version, "promoted_by": promoted, "against": against}
            self.workspace.write_bytes(json.dumps(document).encode(), *REGISTERED)
            return [_said(version, release.name, promoted, reason), f"registry: {registry.address}"]

        def outputs(folder: Path) -> Mapping[str, str]:
            lost = uri is None and not self.workspace.local_path("mlflow.db").exists()
            return {} if lost else file_fingerprint(self.workspace, *REGISTERED)

        return Stage(
            name="register",
            # a digest of the URI, which may hold a password
            config={"force": self.force, "uri": hashlib.sha256((uri or "").encode()).hexdigest()[:16]},
            inputs=lambda: {
                **self._inputs.pointed_at("releases"),
                "verdict": "".join(verdict.outputs(verdict.folder(self.workspace)).values()),
            },
            outputs=outputs,
            run=run,
        )

    def _promoted(self, registry: Registry, version: int, replayed: ReplayStage) -> tuple[str | None, str | None]:
        """Promote what may be; return why, None where it may not be, and then why not."""
        if self.force or registry.version(CHAMPION) in (None, version):
            return registry.promote(version, force=self.force), None
        if reason := replayed.why_not():
            return None, reason
        try:
            return registry.promote(version, verdict=replayed.verdict()), None
        # another champion since the replay: the verdict is not about it
        except RegistryError as error:
            return None, str(error)


def _ranker(manifest: ReleaseManifest) -> list[str]:
    return [RANKER] if RANKER in manifest.runs else []


def _page_metrics(path: Path) -> dict[str, float]:
    """Return the page maker's means from an evaluation report."""
    results = json.loads(path.read_bytes())["results"]
    metrics = next(result["metrics"] for result in results if result["name"] == PAGE)
    return {name: float(interval["mean"]) for name, interval in metrics.items()}


def _said(version: int, release_id: str, promoted: str | None, reason: str | None) -> str:
    if promoted is None:
        return (
            f"version {version} (release {release_id}) is the challenger: {reason}; promote it after a replay of "
            f"more pages (`pagewise replay`), or with `pagewise promote --version {version} --force`"
        )
    return f"version {version} (release {release_id}) is the champion, promoted: {promoted}"
