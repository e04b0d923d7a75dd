"""`pagewise evaluate`: full-catalogue metrics of pages and of what they are made from, baselines beside them."""

from __future__ import annotations

import argparse
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("evaluate", "decode", "index", "recommend")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own; `evaluate.split=validation` and the like say what is measured."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run the evaluation stage; where it is up to date, print what it found."""
    from features.workspace import Workspace
    from pipelines.jobs.model_stages import ModelStages
    from pipelines.jobs.stages import run_stage

    console, workspace = Console(), Workspace(args.workspace)
    result = run_stage(workspace, ModelStages(settings, workspace, console.progress).evaluation())
    console.say(
        *result.report, f"report: {result.folder}", f"next: pagewise register --workspace {quote(args.workspace)}"
    )
    return 0
