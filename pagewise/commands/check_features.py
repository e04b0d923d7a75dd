"""`pagewise check-features`: what the service read for a day's pages, held against what batch finds."""

from __future__ import annotations

import argparse

from pagewise.console import Console
from pagewise.invocation import add_beam_arguments
from pagewise.settings import Settings

SECTIONS = ("feature_check",)
FAILURE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the day, what an alert does, and the Beam runner."""
    parser.add_argument("--day", help="YYYY-MM-DD, UTC; default: the newest day that the tables hold whole")
    parser.add_argument("--fail-on-alert", action="store_true", help="end with exit code 1 if there is an alert")
    add_beam_arguments(parser)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Check a day, say what was found, and tell MLflow."""
    from features.workspace import Workspace
    from pipelines.feature_check.job import check_features, track

    console, workspace = Console(), Workspace(args.workspace)
    report = check_features(workspace, settings.feature_check, settings.batch, args.day, args.beam_options)
    console.say(*report.lines(), *track(report, workspace, settings.tracking.uri))
    return FAILURE if report.alerts and args.fail_on_alert else 0
