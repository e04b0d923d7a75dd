"""`pagewise train`: train a model; under `torchrun` every process runs this command unchanged."""

from __future__ import annotations

import argparse
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("genrec", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model."""
    parser.add_argument("model", choices=("genrec",), help="which model to train")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Train, going on from an interrupted run of the same inputs; a finished one is found and left as it is."""
    from features.workspace import Workspace
    from models.training.genrec import train_genrec

    console = Console()
    training = train_genrec(
        Workspace(args.workspace),
        settings.genrec,
        settings.train,
        seed=settings.seed,
        tracking_uri=settings.tracking.uri,
        progress=console.progress,
    )
    console.say(*training.lines(), f"next: pagewise evaluate --workspace {quote(args.workspace)}")
    return 0
