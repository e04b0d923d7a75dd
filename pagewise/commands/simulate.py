"""`pagewise simulate`: the tables of a simulated marketplace."""

from __future__ import annotations

import argparse
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("simulate",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own; `simulate.users=...` and the like set the size."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Write `events`, `items` and `users`."""
    from features.workspace import Workspace
    from pipelines.simulator.job import simulate

    report = simulate(settings.simulate, Workspace(args.workspace), settings.seed)
    Console().say(*report.lines(), f"next: pagewise run --workspace {quote(args.workspace)}")
    return 0
