"""`pagewise train`: train a model; under `torchrun` every process runs this command unchanged."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from shlex import quote
from typing import Protocol

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


class Training(Protocol):
    """What a training run reports."""

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model."""
    parser.add_argument("model", choices=tuple(SECTIONS_OF), help="which model to train")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Train, going on from an interrupted run of the same inputs; a finished one is found and left as it is."""
    announce(args, settings, SECTIONS_OF[args.model])
    console = Console()
    training = _TRAIN[args.model](args.workspace, settings, console.progress)
    following = "semantic-ids" if args.model == "two-tower" else "evaluate"
    console.say(*training.lines(), f"next: pagewise {following} --workspace {quote(args.workspace)}")
    return 0


def _two_tower(workspace: str, settings: Settings, progress: Callable[[str], None]) -> Training:
    from features.workspace import Workspace
    from models.training.two_tower import train_two_tower

    return train_two_tower(
        Workspace(workspace),
        settings.two_tower,
        settings.two_tower_train,
        seed=settings.seed,
        tracking_uri=settings.tracking.uri,
        progress=progress,
    )


def _genrec(workspace: str, settings: Settings, progress: Callable[[str], None]) -> Training:
    from features.workspace import Workspace
    from models.training.genrec import train_genrec

    return train_genrec(
        Workspace(workspace),
        settings.genrec,
        settings.train,
        seed=settings.seed,
        tracking_uri=settings.tracking.uri,
        progress=progress,
    )


def _ranker(workspace: str, settings: Settings, progress: Callable[[str], None]) -> Training:
    from features.workspace import Workspace
    from models.training.ranker import train_ranker

    return train_ranker(
        Workspace(workspace),
        settings.ranker,
        settings.ranker_train,
        seed=settings.seed,
        tracking_uri=settings.tracking.uri,
        progress=progress,
    )


_TRAIN: dict[str, Callable[[str, Settings, Callable[[str], None]], Training]] = {
    "two-tower": _two_tower,
    "genrec": _genrec,
    "ranker": _ranker,
}
