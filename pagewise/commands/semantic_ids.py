"""`pagewise semantic-ids`: content vectors and semantic IDs of all items."""

from __future__ import annotations

import argparse
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("semantic_ids",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Write a new generation of semantic IDs, or find the present one up to date."""
    from features.workspace import Workspace
    from models.tokenizer.build import build_bundle

    console = Console()
    report = build_bundle(Workspace(args.workspace), settings.semantic_ids, settings.seed, console.progress)
    console.say(*report.lines(), f"next: pagewise train genrec --workspace {quote(args.workspace)}")
    return 0
