"""`pagewise serve`: answer recommendation requests over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("serve", "store", "stream", "tracking")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which release."""
    parser.add_argument("--alias", default="champion", help="alias of the release in the registry (%(default)s)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from features.workspace import Workspace
    from models.registry import CHALLENGER, Registry
    from serving.access import Keys
    from serving.run import RunningService, serve_forever

    console, workspace = Console(), Workspace(args.workspace)
    registry = Registry(workspace, settings.tracking.uri)
    release = registry.resolve(args.alias)
    console.say(f"starting release {release.name} ({args.alias})")

    def challenger() -> Path | None:
        if settings.serve.challenger_share == 0 or registry.version(CHALLENGER) is None:
            return None
        folder = registry.resolve(CHALLENGER)
        return None if folder == registry.resolve(args.alias) else folder

    key = "-H 'X-API-Key: KEY' " if Keys.of(settings.serve.keys_file) else ""

    def ready(service: RunningService) -> None:
        console.say(
            f"serving release {service.release} at {service.url} (API: {service.url}/docs; Ctrl-C stops)",
            f"""try: curl -s {service.url}/v1/recommend {key}--json '{{"user_id": "anybody"}}'""",
        )

    serve_forever(
        workspace,
        release,
        settings.store,
        settings.serve,
        stream_config=settings.stream,
        arm=args.alias,
        ready=ready,
        # a promotion or a rollback takes effect while the service runs
        current=lambda: registry.resolve(args.alias),
        challenger=challenger,
        progress=console.say,
    )
    console.say("stopped")
    return 0
