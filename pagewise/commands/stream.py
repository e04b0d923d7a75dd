"""`pagewise stream`: take up the event stream until it is stopped."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from pagewise.console import Console
from pagewise.settings import Settings

if TYPE_CHECKING:
    from features.workspace import Workspace
    from pipelines.streaming.log import Range
    from pipelines.streaming.metrics import StreamMetrics
    from pipelines.streaming.run import Running

SECTIONS = ("stream", "store")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing beyond the settings."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Log events, fold features, append items until Ctrl-C, SIGTERM or, with `stream.until_empty`, nothing waits."""
    from features.workspace import Workspace
    from pipelines.streaming.run import run_stream, stopping_on_signals

    console, workspace = Console(), Workspace(args.workspace)
    if workspace.is_local and not Path(workspace.root).exists():
        console.say(f"{workspace.root}: no workspace was there, a new one is made; stop this if that is a mistake")

    def ready(running: Running) -> None:
        console.say(
            f"taking up the event stream: {running.backlog:,} messages wait (Ctrl-C ends after the present range)"
        )
        if running.metrics_url is not None:
            console.say(f"metrics: {running.metrics_url}")

    with stopping_on_signals() as stopping:
        report = run_stream(
            workspace,
            settings.stream,
            settings.store,
            settings.batch.pages,
            stopping=stopping,
            champion=lambda: _champion(workspace, settings.tracking.uri),
            ready=ready,
            progress=lambda done, metrics: console.progress(_status(done, metrics)),
            say=console.say,
        )
    console.say(*report.lines(), f"next: pagewise run --workspace {quote(args.workspace)}")
    return 0


def _status(done: Range, metrics: StreamMetrics) -> str:
    """Return what the status line says after a range."""
    events = sum(done.counts.get(f"{table}.in", 0) for table in ("events", "pages", "items"))
    dropped = sum(rows for name, rows in done.counts.items() if ".dropped." in name)
    letters = f", {dropped:,} dead letters" if dropped else ""
    return f"{events:,} rows{letters}, lag {metrics.last_lag:.2f} s, {metrics.last_backlog:,} messages wait"


@contextlib.contextmanager
def _champion(workspace: Workspace, uri: str | None) -> Iterator[Path | None]:
    """Hold the release whose catalogue takes new items; None while there is no registry, or no champion in it."""
    if uri is None and not (workspace.is_local and workspace.local_path("mlflow.db").exists()):
        yield None
        return
    from models.registry import CHAMPION, Registry

    registry = Registry(workspace, uri)
    with registry.held():
        yield None if registry.version(CHAMPION) is None else registry.resolve(CHAMPION)
