"""`pagewise catalogue`: add items to a release that is being served, or take some out, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from pagewise.console import Console
from pagewise.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from features.workspace import Workspace

SECTIONS = ("tracking",)
APPEND, WITHDRAW, SHOW = "append", "withdraw", "show"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to do, with which items, to which release."""
    parser.add_argument("action", choices=(APPEND, WITHDRAW, SHOW), help="what to do with the catalogue")
    parser.add_argument(
        "--items",
        metavar="FILE|ID,ID",
        help="append: a file of items (Parquet, JSON lines, CSV); withdraw: ids, joined by commas",
    )
    parser.add_argument("--items-file", type=Path, metavar="FILE", help="withdraw: a text file, an id per line")
    parser.add_argument("--alias", default="champion", help="alias of the release in the registry (%(default)s)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Write the next delta of the release, or show those there are."""
    from features.workspace import Workspace
    from models.recommend.delta_changes import append, delta_lines, withdraw
    from models.registry import Registry

    console, workspace = Console(), Workspace(args.workspace)
    items, refused = None, list[str]()
    if args.action == APPEND:
        items, refused = _items(args, workspace)
    ids = _ids(args) if args.action == WITHDRAW else []
    registry = Registry(workspace, settings.tracking.uri)
    if args.action == SHOW:
        console.say(*delta_lines(registry.resolve(args.alias)))
        return 0
    with registry.held():
        release = registry.resolve(args.alias)
        report = withdraw(release, ids) if items is None else append(release, items, workspace)
    console.say(*report.lines(), *refused)
    if report.delta is not None:
        console.say(
            f"a running service takes it up within serve.deltas_s = {settings.serve.deltas_s:g} seconds and the time "
            "to build it beside",
            f"next: change the items table in the same way; `pagewise run --workspace {quote(args.workspace)}` then "
            "trains on it",
        )
    return 0


def _items(args: argparse.Namespace, workspace: Workspace) -> tuple[pa.Table, list[str]]:
    """Return the valid rows of the file and what to say of the others."""
    from pipelines.batch.item_files import checked_items, keep_refused

    if args.items is None or args.items_file is not None:
        raise ValueError("append: expected --items FILE, a Parquet, JSON-lines or CSV file of items")
    checked = checked_items(Path(args.items))
    refused = keep_refused(workspace, checked.dead)
    if not checked.rows.num_rows:
        raise ValueError("\n".join([f"{args.items}: expected items, got no row that can be used", *refused]))
    return checked.rows, refused


def _ids(args: argparse.Namespace) -> list[str]:
    if (args.items is None) == (args.items_file is None):
        raise ValueError("withdraw: expected either --items ID,ID or --items-file FILE")
    if args.items_file is not None and not args.items_file.is_file():
        raise FileNotFoundError(f"no file of ids at {args.items_file}")
    text = args.items.split(",") if args.items_file is None else args.items_file.read_text("utf-8").splitlines()
    ids = [item.strip() for item in text if item.strip()]
    if not ids:
        raise ValueError("withdraw: expected ids of items, got none")
    return ids
