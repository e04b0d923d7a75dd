"""`pagewise train`: train a model; under `torchrun` every process runs this command unchanged."""

from __future__ import annotations

import argparse
import importlib
from shlex import quote

from pagewise.console import Console
from pagewise.invocation import announce
from pagewise.settings import Settings

SECTIONS = ()
"""What is printed depends on the model: see `SECTIONS_OF`."""
SECTIONS_OF = {
    "two-tower": ("two_tower", "two_tower_train"),
    "genrec": ("genrec", "train"),
    "ranker": ("ranker", "ranker_train"),
}
"""Sections of the model and of its training loop; `models.training.<model section>` trains it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model."""
    parser.add_argument("model", choices=tuple(SECTIONS_OF), help="which model to train")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Train, going on from an interrupted run of the same inputs; a finished one is found and left as it is."""
    from features.workspace import Workspace

    announce(args, settings, SECTIONS_OF[args.model])
    console = Console()
    section, loop = SECTIONS_OF[args.model]
    train = getattr(importlib.import_module(f"models.training.{section}"), f"train_{section}")
    training = train(
        Workspace(args.workspace),
        getattr(settings, section),
        getattr(settings, loop),
        seed=settings.seed,
        tracking_uri=settings.tracking.uri,
        progress=console.progress,
    )
    following = "semantic-ids" if args.model == "two-tower" else "evaluate"
    console.say(*training.lines(), f"next: pagewise {following} --workspace {quote(args.workspace)}")
    return 0
