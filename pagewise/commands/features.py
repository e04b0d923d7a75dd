"""`pagewise features`: pages, item statistics and item transitions."""

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
    """Turn clean events into pages and what is counted from them."""
    from features.workspace import Workspace
    from pipelines.batch.jobs import build_features

    report = build_features(Workspace(args.workspace), settings.batch, args.beam_options)
    following = f"pagewise sequences --workspace {quote(args.workspace)}"
    Console().say(*dataclasses.replace(report, next_command=following).lines())
    return 0
