"""The stage that replays logged pages: whether the new release would have done better than the champion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.workspace import Workspace
from models.recommend.release_manifest import latest_release
from models.registry import CHAMPION, Registry
from pipelines.jobs.inputs import StageInputs
from pipelines.jobs.settings import DailySettings
from pipelines.jobs.stages import Progress, Stage, file_fingerprint
from pipelines.replay.publishing import publish
from pipelines.replay.report import VERDICT
from pipelines.replay.verdicts import refusal

LOGGED = "logged"
"""What a release is held against while there is no champion: whoever made the logs."""
REGISTERED = ("releases", "REGISTERED")
"""What the last run registered: release id, version, whether it became the champion, what it was held against."""
_TABLES = ("pages", "sequences", "clean_users", "page_features", "item_features", "item_statistics", "transitions")


class ReplayStage:
    """Builds the stage for one workspace.

    Args:
        settings: Sections of all parts.
        workspace: Where everything lies.
        progress: Told what long stages do.
        beam_options: Beam's own options.
    """

    def __init__(
        self, settings: DailySettings, workspace: Workspace, progress: Progress, beam_options: Sequence[str]
    ) -> None:
        self.settings, self.workspace = settings, workspace
        self._beam_options = beam_options
        self._inputs = StageInputs(workspace)
        self._say: Progress = lambda line: progress(f"  {line}")

    def stage(self) -> Stage:
        """Newest release and logged pages to a verdict; where there can be none, to the reason."""
        return Stage(
            name="replay",
            config={"replay": dataclasses.asdict(self.settings.replay), "seed": self.settings.seed},
            inputs=lambda: {
                **self._inputs.tables(*_TABLES)(),
                **self._inputs.pointed_at("releases"),
                "against": self.against(),
            },
            outputs=lambda folder: file_fingerprint(self.workspace, "runs", "replay", folder.name, VERDICT),
            run=self._run,
        )

    def against(self) -> str:
        """Return the release id of the champion that the newest release is, or was, held against, or `logged`."""
        uri = self.settings.tracking.uri
        if uri is None and not self.workspace.local_path("mlflow.db").exists():
            return LOGGED
        champion = Registry(self.workspace, uri).release_id(CHAMPION)
        newest = latest_release(self.workspace.local_path("releases")).name
        if champion == newest:
            registered = registered_last(self.workspace)
            return str(registered["against"]) if registered.get("release_id") == newest else LOGGED
        return champion or LOGGED

    def verdict(self) -> Path:
        """Return where the stage left the verdict about the newest release."""
        return self.stage().folder(self.workspace) / VERDICT

    def why_not(self) -> str | None:
        """Return why the verdict does not allow to promote the newest release, None where it does."""
        verdict = json.loads(self.verdict().read_bytes())
        if verdict["promote"]:
            return None
        return f"the replay against {self.against()} says {verdict.get('verdict', 'nothing').replace('_', ' ')}"

    def _run(self, folder: Path) -> list[str]:
        from pipelines.replay.job import replay  # scikit-learn, for whoever replays: most runs find it done

        settings, against = self.settings, self.against()
        release = latest_release(self.workspace.local_path("releases")).name
        config = dataclasses.replace(settings.replay, champion=against, challenger=release, logs=None)
        try:
            report = replay(
                self.workspace,
                config,
                seed=settings.seed,
                tracking_uri=settings.tracking.uri,
                beam_options=self._beam_options,
                progress=self._say,
            )
        # a release that these pages cannot judge stays a challenger, and the job goes on; other failures judge nothing,
        # and the next run tries again
        except (ValueError, FileNotFoundError) as error:
            refused = refusal(release, None if against == LOGGED else against, error)
            (folder / VERDICT).write_text(json.dumps(refused, indent=2))
            return [f"no verdict about release {release} against {against}, it stays a challenger: {error}"]
        tracked = publish(report, self.workspace, settings.tracking.uri)
        (folder / VERDICT).write_bytes(report.verdict_json())
        return [*report.summary(), *tracked]


def registered_last(workspace: Workspace) -> Mapping[str, Any]:
    """Return what the last run registered, nothing where there was none."""
    path = workspace.local_path(*REGISTERED)
    found: Mapping[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found if "against" in found else {}
