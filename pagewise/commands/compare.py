"""`pagewise compare`: a study of many runs that ends in one table: embedding methods, or self-supervision."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

from pagewise.console import Console
from pagewise.invocation import announce
from pagewise.settings import Settings

SECTIONS = ()
"""What is printed depends on the study: see `SECTIONS_OF`."""
SECTIONS_OF = {"embeddings": ("compare",), "ssl": ("ssl_study", "two_tower", "two_tower_train")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which study, and where its data are."""
    parser.add_argument(
        "study",
        choices=tuple(SECTIONS_OF),
        help="embeddings: click models whose tables are of one size but of different kinds, on the public data set "
        "`compare.dataset`; ssl: two-tower models with and without the self-supervised task, on this workspace",
    )
    parser.add_argument("--source", type=Path, metavar="DIR", help="embeddings: the data set's files")
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="runs of each kind, seeds 0 to N - 1 (%(default)s)"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run what is not done yet and print the table."""
    if args.seeds < 2:
        raise ValueError(f"--seeds: expected at least 2, intervals need them, got {args.seeds}")
    if (args.source is None) == (args.study == "embeddings"):
        raise ValueError("--source: expected the data set's folder for `embeddings`, and nothing for `ssl`")
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
    asked = repr((settings.ssl_study, settings.two_tower, settings.two_tower_train, args.seeds))
    name = f"{settings.ssl_study.split}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    report = ssl_study(
        workspace,
        settings.ssl_study,
        settings.two_tower,
        settings.two_tower_train,
        seeds=range(args.seeds),
        folder=workspace.local_path("runs", "compare-ssl", name),
        progress=progress,
    )
    return report.lines()


_STUDIES: dict[str, Callable[[argparse.Namespace, Settings, Callable[[str], None]], list[str]]] = {
    "embeddings": _embeddings,
    "ssl": _ssl,
}
