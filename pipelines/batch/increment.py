"""Folding what is new into tables that stand: what a table was made of, and which of its files stay as they are.

A table's manifest names everything the table was made of: the fingerprints of its inputs, the settings, the software.
A stage may fold new rows into a table only if all of that is as it was but for rows that were added; otherwise it
computes the table anew, and says why. What is folded in equals what would be computed anew, file by file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import features
import kernels
from features.schemas import CLEAN_TABLES
from features.workspace import FileEntry, Manifest, Table, Workspace
from pipelines.batch.runner import Summary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FRESH = "fresh_events"
FRESH_TABLES = {"events": FRESH, "served_pages": "fresh_served_pages"}
"""Raw tables that grow -> the table of what the newest validation added to the clean one."""
SETTINGS, SOFTWARE, CLEAN, BEFORE, STREAM = "settings", "software", "clean_events", "before", "stream"
"""Names of inputs: digests of settings and software, the clean events, what they were before, the stream's log."""
SERVED = CLEAN_TABLES["served_pages"]


class CannotFoldError(Exception):
    """A table must be computed anew; the message says why."""


def made_with(**settings: DataclassInstance | int | str | bool | None) -> dict[str, str]:
    """Return inputs that name settings and software."""
    document = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        for name, value in settings.items()
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
    return {SETTINGS: digest, SOFTWARE: software_digest()}


@lru_cache(maxsize=1)
def software_digest() -> str:
    """Return a digest of the code that makes tables: tables that other code made are never added to."""
    folders = [Path(str(package.__file__)).parent for package in (kernels, features)] + [Path(__file__).parent]
    paths = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def file_inputs(name: str, files: Mapping[str, str] | Iterable[FileEntry]) -> dict[str, str]:
    """Return inputs that name every file of a table."""
    pairs = files.items() if isinstance(files, Mapping) else [(entry.path, entry.digest) for entry in files]
    return {f"{name}/{path}": digest for path, digest in pairs}


def standing(tables: Iterable[Table]) -> dict[str, Manifest]:
    """Return the manifests of tables that one run of a stage has written.

    Raises:
        CannotFoldError: One is not there, or they come from different runs.
    """
    wanted = list(tables)
    found = {table.name: table.manifest() for table in wanted if table.exists()}
    if not found:
        raise CannotFoldError("this is the first time")
    if missing := [table.name for table in wanted if table.name not in found]:
        raise CannotFoldError(f"there is no table {' and no table '.join(missing)}")
    if len({json.dumps(dict(manifest.inputs), sort_keys=True) for manifest in found.values()}) > 1:
        raise CannotFoldError(f"{', '.join(found)} come from different runs")
    return found


def require_equal(before: Mapping[str, str], now: Mapping[str, str], *names: str) -> None:
    """Check that inputs are what they were.

    Raises:
        CannotFoldError: One is not.
    """
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        raise CannotFoldError(f"changed: {', '.join(changed)}")


def fresh_events(workspace: Workspace, before: str | None) -> Table:
    """Return the table of the events that were added to those of a fingerprint.

    Raises:
        CannotFoldError: It is not known which were added.
    """
    return _fresh(workspace, "events", before)


def fresh_rows(workspace: Workspace, name: str, before: str | None) -> Table | None:
    """Return the table of what was added to a clean table since it had a fingerprint; None where nothing was.

    Args:
        workspace: Holds the tables.
        name: A raw table of `FRESH_TABLES`.
        before: The fingerprint, None where there was no such table.

    Raises:
        CannotFoldError: It is not known what was added.
    """
    clean = workspace.table(CLEAN_TABLES[name])
    now = clean.manifest().fingerprint if clean.exists() else None
    return None if now == before else _fresh(workspace, name, before)


def _fresh(workspace: Workspace, name: str, before: str | None) -> Table:
    fresh, clean = workspace.table(FRESH_TABLES[name]), CLEAN_TABLES[name]
    now = workspace.table(clean).manifest().fingerprint
    inputs = fresh.manifest().inputs if fresh.exists() else {}
    if before is None or (inputs.get(BEFORE), inputs.get(clean)) != (before, now):
        raise CannotFoldError(f"it is not known which {name.replace('_', ' ')} are new")
    return fresh


def date_of(entry: FileEntry) -> str:
    """Return the day of a file of a table by days.

    Example:
        >>> date_of(FileEntry(path="date=2024-03-01/part-00000-0a.parquet", rows=1, digest="0a"))
        '2024-03-01'
    """
    return entry.path.split("/")[0].removeprefix("date=")


def merged_entries(before: Manifest, summary: Summary) -> list[FileEntry]:
    """Return the files of a table by days, of which the summary names the days that were written anew."""
    touched = summary.touched(before.name)
    kept = [entry for entry in before.files if date_of(entry) not in touched]
    return [*kept, *summary.files.get(before.name, [])]
