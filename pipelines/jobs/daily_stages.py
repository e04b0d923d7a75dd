"""The stages of the daily job, in order."""

from __future__ import annotations

from collections.abc import Sequence

from features.workspace import Workspace
from models.recommend.config import LEARNED
from pipelines.jobs.data_stages import DataStages
from pipelines.jobs.model_stages import ModelStages
from pipelines.jobs.release_stages import ReleaseStages
from pipelines.jobs.replay_stage import ReplayStage
from pipelines.jobs.settings import DailySettings
from pipelines.jobs.stages import Progress, Stage


class DailyStages:
    """All stages for one workspace.

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
        self.settings = settings
        self.data = DataStages(settings, workspace, beam_options)
        self.models = ModelStages(settings, workspace, progress)
        self.releases = ReleaseStages(settings, workspace, progress, force)
        self.replayed = ReplayStage(settings, workspace, progress, beam_options)

    def all(self) -> list[Stage]:
        """Return the stages in order."""
        return [
            self.data.validation(),
            self.data.features(),
            self.data.sequences(),
            self.models.two_tower(),
            self.models.semantic_ids(),
            self.models.genrec(),
            self.models.ranker(),
            self.models.align(),
            *([self.models.blend()] if self.settings.recommend.fusion == LEARNED else []),
            *self.publication(),
        ]

    def publication(self) -> list[Stage]:
        """Return the stages from trained models to a registered release, promoted if its verdict says so."""
        evaluation = self.models.evaluation()
        return [
            evaluation,
            self.releases.release(evaluation),
            self.releases.store(),
            self.replayed.stage(),
            self.releases.registration(self.replayed),
        ]
