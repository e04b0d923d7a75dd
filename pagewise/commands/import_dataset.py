"""`pagewise import`: the tables of a public data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("batch",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the importer's name and the folder with the publisher's files."""
    parser.add_argument("name", metavar="NAME", help="which layout the files have, for example s3rec or online-retail")
    parser.add_argument("--source", required=True, type=Path, metavar="DIR", help="the publisher's file or folder")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Write `events`, `items` and what was rejected."""
    from features.workspace import Workspace
    from pipelines.importers import import_dataset

    report = import_dataset(args.name, args.source, Workspace(args.workspace))
    Console().say(*report.lines(), f"next: pagewise run --workspace {quote(args.workspace)}")
    return 0
