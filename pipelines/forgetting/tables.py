"""Committed tables without some persons: only the parts that hold one of them are written anew."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from features.definitions import feature_schemas
from features.schemas import TABLES
from features.workspace import FileEntry, Table, Workspace
from pipelines.forgetting.rows import doomed_columns, doomed_rows, holds_persons

FORGOTTEN = "forgotten"
"""Counted in the manifest: rows that were removed since the table was written."""
_PART = re.compile(r"(?:date=(?P<date>[^/]+)/)?part-(?P<shard>\d+)-\w+\.parquet")


def forget_in_tables(workspace: Workspace, users: Collection[str]) -> dict[str, int]:
    """Remove these users' rows from every committed table.

    Args:
        workspace: No job may be writing in it.
        users: Ids.

    Returns:
        Table -> rows removed, of those tables that had any.
    """
    removed = {}
    for name in sorted({**TABLES, **feature_schemas()}):
        table = workspace.table(name)
        if table.exists() and holds_persons(table.schema) and (rows := _forget(table, users)):
            removed[name] = rows
    return removed


def _forget(table: Table, users: Collection[str]) -> int:
    manifest = table.manifest()
    entries = [_without(table, entry, users) for entry in manifest.files]
    rows = manifest.rows - sum(entry.rows for entry in entries)
    if rows:
        counts = {**manifest.counts, FORGOTTEN: manifest.counts.get(FORGOTTEN, 0) + rows}
        kept = [entry for entry in entries if entry.rows]
        table.commit(kept, inputs=manifest.inputs, counts=counts, notes=manifest.notes)
    return rows


def _without(table: Table, entry: FileEntry, users: Collection[str]) -> FileEntry:
    """Return the entry of a part without the users' rows: the part itself where it holds none."""
    path = f"{table.root}/{entry.path}"
    filesystem = table.workspace.filesystem
    doomed = doomed_rows(pq.read_table(path, columns=doomed_columns(table.schema), filesystem=filesystem), users)
    if not doomed.any():
        return entry
    if doomed.all():
        return dataclasses.replace(entry, rows=0)
    found = _PART.fullmatch(entry.path)
    assert found is not None, entry.path
    kept = pq.read_table(path, schema=table.schema, filesystem=filesystem).filter(pa.array(~doomed))
    return table.write_part(kept, shard=int(found["shard"]), date=found["date"])
