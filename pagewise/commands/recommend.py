"""`pagewise recommend`: a page for every user, as Parquet, equal to the server's for the same release and moment."""

from __future__ import annotations

import argparse
import datetime

from pagewise.console import Console
from pagewise.invocation import add_beam_arguments
from pagewise.settings import Settings

SECTIONS = ("recommend_job", "store", "tracking")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which release, which moment and the Beam runner."""
    parser.add_argument("--alias", default="champion", help="alias of the release in the registry (%(default)s)")
    parser.add_argument(
        "--time",
        metavar="ISO8601",
        help="the moment of all requests, UTC, later than all events (default: just after the newest event)",
    )
    add_beam_arguments(parser)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Make the pages and say where they lie."""
    from features.workspace import Workspace
    from models.registry import Registry
    from pipelines.recommend.job import recommend

    workspace = Workspace(args.workspace)
    moment = None if args.time is None else _milliseconds(args.time)
    report = recommend(
        workspace,
        settings.recommend_job,
        Registry(workspace, settings.tracking.uri).resolve(args.alias),
        history_length=settings.store.history_length,
        time=moment,
        beam_options=args.beam_options,
    )
    Console().say(*report.lines())
    return 0


def _milliseconds(text: str) -> int:
    """Return the moment that a text names, in milliseconds since 1970 UTC; without an offset it is in UTC."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--time: expected a moment like 2026-11-21T12:00:00, got {text!r}") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1000)
