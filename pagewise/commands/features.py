"""`pagewise features`: pages, item statistics and transitions, and the features of users and items."""

from __future__ import annotations

import argparse
import dataclasses
from shlex import quote

from pagewise.console import Console
from pagewise.invocation import add_beam_arguments
from pagewise.settings import Settings

SECTIONS = ("batch",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the Beam runner."""
    add_beam_arguments(parser)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Turn clean events into pages and what is counted from them, then fold them into features."""
    from features.workspace import Workspace
    from pipelines.batch.feature_jobs import build_user_and_item_features
    from pipelines.batch.jobs import build_features

    console, workspace = Console(), Workspace(args.workspace)
    console.say(*build_features(workspace, settings.batch, args.beam_options).lines())
    report = build_user_and_item_features(workspace, settings.batch, args.beam_options)
    following = f"pagewise sequences --workspace {quote(args.workspace)}"
    console.say(*dataclasses.replace(report, next_command=following).lines())
    return 0
