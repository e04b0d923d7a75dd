"""The stream's log without some persons."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from features.schemas import LOG_TABLES
from features.workspace import Workspace, conform
from pipelines.forgetting.rows import doomed_columns, doomed_rows, holds_persons
from pipelines.streaming.log import LOG, STREAM, LogFile, together, write_durably
from pipelines.streaming.ranges import RangeLog


def forget_in_log(workspace: Workspace, log: RangeLog, users: Collection[str]) -> dict[str, int]:
    """Remove these users' rows from the files of the log, which keep their names.

    Args:
        workspace: Where the log is.
        log: Its only writer.
        users: Ids.

    Returns:
        Table -> rows removed, of those tables that had any.
    """
    done = [log.compacted, *log.done] if log.compacted.last else log.done
    if not done:
        return {}
    merged = together(done)
    removed: dict[str, int] = {}
    files = []
    for file in merged.files:
        kept = _without(workspace, file, users)
        if kept.rows < file.rows:
            removed[file.table] = removed.get(file.table, 0) + file.rows - kept.rows
        if kept.rows:
            files.append(kept)
    # where nothing was removed, too: a run that was stopped may have left files that are no part of the log any more
    log.replace(dataclasses.replace(merged, files=tuple(files)), at_once=True)
    return removed


def _without(workspace: Workspace, file: LogFile, users: Collection[str]) -> LogFile:
    schema, path = LOG_TABLES[file.table], workspace.path(STREAM, LOG, file.path)
    if not holds_persons(schema):
        return file
    doomed = doomed_rows(pq.read_table(path, columns=doomed_columns(schema), filesystem=workspace.filesystem), users)
    if not doomed.any():
        return dataclasses.replace(file, rows=len(doomed))  # another run may have been stopped after writing the file
    rows = pq.read_table(path, schema=schema, filesystem=workspace.filesystem, partitioning=None)
    kept = conform(rows.filter(pa.array(~doomed)), schema, file.table)
    sink = pa.BufferOutputStream()
    pq.write_table(kept, sink, compression="zstd")
    write_durably(workspace, path, sink.getvalue())
    return dataclasses.replace(file, rows=kept.num_rows)
