"""`pagewise run`: the daily job."""

from __future__ import annotations

import argparse
from shlex import quote

from pagewise.console import Console
from pagewise.invocation import add_beam_arguments
from pagewise.settings import Settings

SECTIONS = (
    "batch",
    "semantic_ids",
    "genrec",
    "decode",
    "train",
    "align",
    "evaluate",
    "recommend",
    "store",
    "replay",
    "tracking",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the Beam runner and the forced promotion."""
    add_beam_arguments(parser)
    parser.add_argument("--force", action="store_true", help="make the new release the champion without a verdict")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run every stage that is not up to date, in order."""
    from features.workspace import Workspace
    from pipelines.jobs.daily import run_daily

    console = Console()
    report = run_daily(
        settings, Workspace(args.workspace), console.say, beam_options=args.beam_options, force=args.force
    )
    console.say(*report.lines(), f"next: pagewise serve --workspace {quote(args.workspace)}")
    return 0
