"""`pagewise promote`: make a registered release the champion."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("replay", "tracking")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the version and what allows it."""
    parser.add_argument("--version", type=int, metavar="N", help="registered version (default: the challenger)")
    allowed = parser.add_mutually_exclusive_group()
    allowed.add_argument(
        "--verdict",
        type=Path,
        metavar="FILE",
        help="a replay verdict in favour of this version, made with the same options replay.* (default: the "
        "workspace's newest about it and the champion)",
    )
    allowed.add_argument("--force", action="store_true", help="promote without a verdict; recorded")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Promote; without a champion nothing else is needed."""
    from features.workspace import Workspace
    from models.registry import CHAMPION, Registry
    from pipelines.replay.verdicts import check_options, newest_verdict

    console, workspace = Console(), Workspace(args.workspace)
    registry = Registry(workspace, settings.tracking.uri, console.say)
    candidate, verdict = registry.compared(args.version)[0], args.verdict
    if candidate == registry.release_id(CHAMPION):
        console.say(f"version {registry.version(CHAMPION)} is the champion already; nothing was changed")
        return 0
    if verdict is None and not args.force and registry.version(CHAMPION) is not None:
        verdict = newest_verdict(workspace, *registry.compared(args.version))
    if verdict is not None:
        check_options(verdict, settings.replay)
    reason = registry.promote(args.version, force=args.force, verdict=verdict)
    console.say(
        f"version {registry.version(CHAMPION)} is the champion, promoted: {reason} (registry {registry.address})",
        f"next: pagewise serve --workspace {quote(args.workspace)}",
    )
    return 0
