"""`pagewise forget`: remove what is held of persons."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("store", "stream")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare whom to forget."""
    parser.add_argument(
        "user",
        metavar="USER|@FILE",
        help="id of the user, or a text file with an id per line, for ids that begin with @ or -, too",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Remove the users from tables, raw files, the stream's log and the online store."""
    from features.workspace import Workspace
    from pipelines.forgetting.job import forget

    console, users = Console(), users_named(args.user)
    workspace = Workspace(args.workspace)
    report = forget(workspace, users, settings.store, settings.stream, settings.batch.pages, console.say)
    console.say(
        *report.lines(),
        "models that have seen them stay until they are trained again; next: "
        f"pagewise run --workspace {quote(args.workspace)}",
    )
    return 0


def users_named(text: str) -> list[str]:
    """Return the id given, or those of `@FILE`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no UTF-8, or holds no id.
    """
    if not text.startswith("@"):
        return [text]
    file = Path(text[1:])
    if not file.is_file():
        raise FileNotFoundError(
            f"no file of ids at {file}; an id that begins with @ is given in a file, too: pagewise forget @FILE"
        )
    try:
        lines = file.read_text("utf-8-sig").split("\n")  # an id may hold what `splitlines` takes for an end of line
    except UnicodeDecodeError as error:
        came = f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
        raise ValueError(f"{file}: expected ids as UTF-8, got {came}; write the file anew") from error
    users = [user for line in lines if (user := line.strip(" \t\r"))]
    if not users:
        raise ValueError(f"{file}: expected ids of users, one per line, got none")
    return users
