"""The daily job: raw tables in, a registered release and a filled online store out."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence

from features.workspace import Workspace
from pipelines.jobs.checks import check_settings
from pipelines.jobs.daily_stages import DailyStages
from pipelines.jobs.lock import writing_tables
from pipelines.jobs.replay_stage import REGISTERED
from pipelines.jobs.settings import DailySettings
from pipelines.jobs.stages import Progress, StageResult, run_stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class DailyReport:
    """What the job did."""

    stages: tuple[StageResult, ...]
    seconds: float
    release_id: str
    version: int
    """Of the registered model."""
    promoted_by: str | None
    """Why the release became the champion, None where it is the challenger."""
    against: str
    """Release id of the champion that it was held against, `logged` where there was none."""

    def stage(self, name: str) -> StageResult:
        """Return one stage's result."""
        return next(stage for stage in self.stages if stage.name == name)

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        ran = [stage for stage in self.stages if not stage.skipped]
        times = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in ran) or "none, all were up to date"
        rank = f"promoted: {self.promoted_by}" if self.promoted_by else "challenger"
        return [
            f"daily job: {self.seconds:.1f} s; stages run: {times}",
            f"release {self.release_id}, version {self.version}, {rank}",
        ]


def run_daily(
    settings: DailySettings,
    workspace: Workspace,
    progress: Progress,
    *,
    beam_options: Sequence[str] = (),
    force: bool = False,
) -> DailyReport:
    """Run every stage that is not up to date, in order.

    Args:
        settings: Sections of all parts.
        workspace: On this machine, with raw tables in it.
        progress: Told of each stage, and by long stages of what they do.
        beam_options: Beam's own options; default: in this process.
        force: Make the new release the champion without a verdict.

    Raises:
        LockedError: Another process runs the job in this workspace.
        ValueError: Sections of the settings do not fit together; nothing has run.
        ValueError, FileNotFoundError: A stage found a mistake in data or settings; stages before it stay done.
    """
    started = time.monotonic()
    check_settings(settings)
    with writing_tables(workspace):
        stages = DailyStages(settings, workspace, progress, beam_options, force).all()
        results = run_stages(workspace, stages, progress)
        registered = json.loads(workspace.read_bytes(*REGISTERED))
    return DailyReport(stages=tuple(results), seconds=time.monotonic() - started, **registered)
