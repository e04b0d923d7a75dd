"""`pagewise rollback`: make the previous champion the champion again."""

from __future__ import annotations

import argparse

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("tracking",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Roll back by one champion."""
    from features.workspace import Workspace
    from models.registry import Registry

    console = Console()
    registry = Registry(Workspace(args.workspace), settings.tracking.uri, console.say)
    version = registry.rollback()
    console.say(
        f"version {version} is the champion again (registry {registry.address}); a running service of the champion "
        f"turns to it within serve.refresh_s = {settings.serve.refresh_s:g} seconds and the time it takes to load"
    )
    return 0
