"""`pagewise compare`: a study of many runs that ends in one table."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pagewise.console import Console
from pagewise.invocation import announce, check_workspace
from pagewise.settings import Settings

if TYPE_CHECKING:
    from features.workspace import Workspace

SECTIONS = ()
"""What is printed depends on the study: see `SECTIONS_OF`."""
SECTIONS_OF = {
    "embeddings": ("compare",),
    "ssl": ("ssl_study", "two_tower", "two_tower_train"),
    "genrec": ("genrec_study", "genrec", "train", "align", "ranker", "ranker_train", "decode"),
    "curves": ("curves", "genrec", "train", "decode"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which study, and where its data are."""
    parser.add_argument(
        "study",
        choices=tuple(SECTIONS_OF),
        help="embeddings: click models whose tables are of one size but of different kinds, on the public data set "
        "`compare.dataset`; on this workspace, ssl: two-tower models with and without the self-supervised task; "
        "genrec: page-wise and point-wise, merged or not, and every kind of alignment; curves: GenRec by beams, "
        "history, size and training time",
    )
    parser.add_argument("--source", type=Path, metavar="DIR", help="embeddings: the data set's files")
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="runs of each kind, seeds 0 to N - 1 (5; genrec: 1; curves: one run, of `seed`)",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run what is not done yet and print the table."""
    least, usual = _SEEDS.get(args.study, (None, None))
    if args.seeds is None:
        args.seeds = usual
    elif least is None or args.seeds < least:
        expected = "nothing for `curves`" if least is None else f"at least {least} for `{args.study}`"
        raise ValueError(f"--seeds: expected {expected}, got {args.seeds}")
    if (args.source is None) == (args.study == "embeddings"):
        raise ValueError("--source: expected the data set's folder for `embeddings`, and nothing for other studies")
    check_workspace(args.workspace, must_exist=args.study != "embeddings")  # which reads a data set of its own
    announce(args, settings, SECTIONS_OF[args.study])
    Console().say(*_STUDIES[args.study](args, settings, Console().progress))
    return 0


def _embeddings(args: argparse.Namespace, settings: Settings, progress: Callable[[str], None]) -> list[str]:
    from features.workspace import Workspace
    from pipelines.compression.compare import compare

    folder = Workspace(args.workspace).local_path("runs", "compare-embeddings", settings.compare.dataset)
    return compare(settings.compare, args.source, folder, range(args.seeds), progress).lines()


def _ssl(args: argparse.Namespace, settings: Settings, progress: Callable[[str], None]) -> list[str]:
    from features.workspace import Workspace
    from pipelines.studies.ssl import ssl_study

    workspace = Workspace(args.workspace)
    asked = (settings.ssl_study, settings.two_tower, settings.two_tower_train, args.seeds)
    report = ssl_study(
        workspace,
        settings.ssl_study,
        settings.two_tower,
        settings.two_tower_train,
        seeds=range(args.seeds),
        folder=_folder(workspace, "ssl", settings.ssl_study.split, asked),
        progress=progress,
    )
    return report.lines()


def _genrec(args: argparse.Namespace, settings: Settings, progress: Callable[[str], None]) -> list[str]:
    from features.workspace import Workspace
    from pipelines.studies.genrec import StudySettings, genrec_study

    workspace, config = Workspace(args.workspace), settings.genrec_study
    parts = StudySettings(**{name: getattr(settings, name) for name in SECTIONS_OF["genrec"][1:]})
    folder = _folder(workspace, "genrec", config.split, (config, parts, args.seeds))
    seeds = range(args.seeds)
    return genrec_study(workspace, config, parts, seeds=seeds, folder=folder, progress=progress).lines()


def _curves(args: argparse.Namespace, settings: Settings, progress: Callable[[str], None]) -> list[str]:
    from features.workspace import Workspace
    from pipelines.studies.curves import curves

    workspace, config = Workspace(args.workspace), settings.curves
    parts = (settings.genrec, settings.train, settings.decode)
    folder = _folder(workspace, "curves", config.split, (config, *parts, settings.seed))
    report = curves(workspace, config, *parts, seed=settings.seed, folder=folder, progress=progress)
    return [*report.lines(), f"plot: {folder / 'curves.png'}"]


def _folder(workspace: Workspace, study: str, split: str, asked: tuple[object, ...]) -> Path:
    """Return the folder of a study with these settings."""
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
    return workspace.local_path("runs", f"compare-{study}", f"{split}-{digest}")


_STUDIES: dict[str, Callable[[argparse.Namespace, Settings, Callable[[str], None]], list[str]]] = {
    "embeddings": _embeddings,
    "ssl": _ssl,
    "genrec": _genrec,
    "curves": _curves,
}
_SEEDS = {"embeddings": (2, 5), "ssl": (2, 5), "genrec": (1, 1)}
"""Fewest seeds of a study, and how many there are where none are asked for; intervals over seeds need two."""
