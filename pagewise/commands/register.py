"""`pagewise register`: pack a release and register it as the challenger."""

from __future__ import annotations

import argparse
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("evaluate", "decode", "index", "recommend", "store", "replay", "tracking")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run the last stages of the daily job: evaluation, release, store, registration; each only if need be."""
    from features.workspace import Workspace
    from pipelines.jobs.daily_stages import DailyStages
    from pipelines.jobs.stages import run_stages

    console, workspace = Console(), Workspace(args.workspace)
    run_stages(workspace, DailyStages(settings, workspace, console.progress).publication(), console.say)
    console.say(f"next: pagewise promote --workspace {quote(args.workspace)}")
    return 0
