"""`pagewise align`: GenRec towards what a ranker of earlier days finds worth showing (GRPO-SR)."""

from __future__ import annotations

import argparse
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("align", "ranker", "ranker_train", "decode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Align the latest supervised run, going on from an interrupted alignment of the same inputs."""
    from features.workspace import Workspace
    from models.training.alignment import align_genrec

    console = Console()
    alignment = align_genrec(
        Workspace(args.workspace),
        settings.align,
        settings.ranker,
        settings.ranker_train,
        decode=settings.decode,
        seed=settings.seed,
        tracking_uri=settings.tracking.uri,
        progress=console.progress,
    )
    console.say(*alignment.lines(), f"next: pagewise evaluate --workspace {quote(args.workspace)}")
    return 0
