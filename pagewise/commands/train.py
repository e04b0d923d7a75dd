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
    "blend": ("blend", "recommend", "decode", "index"),
}
"""Sections of the model and of its training loop, which `models.training.<model section>` trains; of the learned
fusion, those of the fit and of the page maker whose scores it weighs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model."""
    parser.add_argument("model", choices=tuple(SECTIONS_OF), help="which model to train")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Train, going on from an interrupted run of the same inputs; a finished one is found and left as it is."""
    from features.workspace import Workspace

    announce(args, settings, SECTIONS_OF[args.model])
    if args.model == "blend":
        return _blend(args, settings)
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


def _blend(args: argparse.Namespace, settings: Settings) -> int:
    from features.workspace import Workspace
    from models.training.blend import train_blend
    from pipelines.jobs.settings import answers_of

    console = Console()
    answers, seed = answers_of(settings), settings.seed
    fitted = train_blend(Workspace(args.workspace), settings.blend, answers, seed=seed, progress=console.progress)
    console.say(
        *fitted.lines(), f"next: pagewise evaluate --workspace {quote(args.workspace)} recommend.fusion=learned"
    )
    return 0
