"""What `validate` reads: raw tables and the stream's log, and which part of it an earlier run has read already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.schemas import CLEAN_TABLES, EVENT_LOG, ITEM_LOG, ITEMS, RAW_TABLES, STREAM_POSITION
from features.workspace import Manifest, Workspace
from pipelines.batch.arrow import string_ranks
from pipelines.batch.config import BatchConfig
from pipelines.batch.increment import (
    FRESH_TABLES,
    SETTINGS,
    SOFTWARE,
    STREAM,
    CannotFoldError,
    file_inputs,
    made_with,
    require_equal,
    standing,
)
from pipelines.batch.raw import FORMATS, RawBatch, file_digests, fingerprint, raw_files
from pipelines.batch.unread import unread_files
from pipelines.streaming.log import LogSnapshot, committed_log, empty_log

REJECTS = "import_rejects"
OPTIONAL = ("users", "served_pages")
"""Raw tables that need not be there."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of raw rows; of one of the stream's log, the rows behind position `after`, up to position `upto`."""

    path: str
    after: int | None = None
    upto: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawInputs:
    """Files of raw rows by table, and what names their content.

    Attributes:
        sources: All files of each table that there is.
        inputs: As a manifest has them.
        log: The stream's.
    """

    sources: Mapping[str, list[Source]]
    inputs: Mapping[str, str]
    log: LogSnapshot

    @classmethod
    def of(cls, workspace: Workspace, config: BatchConfig) -> RawInputs:
        """Look at what there is.

        Raises:
            FileNotFoundError: There are no events, or no items.
        """
        files = {name: raw_files(workspace, name) for name in RAW_TABLES}
        log = committed_log(workspace) if config.stream_log else empty_log(workspace)
        sources = {name: [Source(path) for path in files[name]] for name in RAW_TABLES}
        sources["events"] += [Source(path, 0, log.position) for path in log.files[EVENT_LOG]]
        present = [name for name in RAW_TABLES if sources[name] or (name == "items" and log.files[ITEM_LOG])]
        _require_tables(workspace, present)
        inputs = made_with(shards=config.shards)
        for name in present:
            inputs[name] = fingerprint(workspace, name) if files[name] else ""
        for name in FRESH_TABLES:
            inputs |= file_inputs(name, file_digests(workspace, name) if files[name] else {})
        if log.position:
            inputs[STREAM] = f"{log.position} {_rows(workspace, log, EVENT_LOG, log.position)}"
            inputs[ITEM_LOG] = f"{_rows(workspace, log, ITEM_LOG, log.position)}"
        if workspace.table(REJECTS).exists():
            inputs[REJECTS] = workspace.table(REJECTS).manifest().fingerprint
        return cls(sources={name: sources[name] for name in present}, inputs=inputs, log=log)

    def fresh(self, workspace: Workspace, before: Manifest) -> dict[str, list[Source]]:
        """Return the sources of rows that came since a run, by table, of those that grow and were there already.

        Raises:
            CannotFoldError: Anything else than that rows were added has changed.
        """
        known = before.inputs
        require_equal(known, self.inputs, SETTINGS, SOFTWARE, REJECTS)
        growing = tuple(f"{name}/" for name in FRESH_TABLES)
        gone = [name for name, digest in known.items() if name.startswith(growing) and self.inputs.get(name) != digest]
        if gone:
            raise CannotFoldError(f"changed or gone: {gone[0]}{f' and {len(gone) - 1} more' if gone[1:] else ''}")
        position, rows = (int(part) for part in known.get(STREAM, "0 0").split())
        if position > self.log.position or _rows(workspace, self.log, EVENT_LOG, position) != rows:
            raise CannotFoldError("the stream's log is not what it was")
        added = {name: self._added(workspace, name, known) for name in FRESH_TABLES if name in known}
        added["events"] += [
            Source(source.path, position, self.log.position)
            for source in self.sources["events"]
            if source.upto is not None and position < self.log.position
        ]
        return added

    def _added(self, workspace: Workspace, name: str, known: Mapping[str, str]) -> list[Source]:
        """Return the files of a raw table that were not there."""
        root = workspace.table(name).root
        files = [source for source in self.sources[name] if source.upto is None]
        return [source for source in files if f"{name}/{source.path.removeprefix(f'{root}/')}" not in known]

    def changed(self, before: Manifest) -> list[str]:
        """Return the tables that are not what they were, without those that `fresh` tells of."""
        known = before.inputs
        same = {name: known.get(name) == self.inputs.get(name) for name in RAW_TABLES}
        same["items"] &= known.get(ITEM_LOG) == self.inputs.get(ITEM_LOG)
        grown = [name for name in FRESH_TABLES if name in known]
        return [name for name in RAW_TABLES if name not in grown and not same[name]]


def logged_items(workspace: Workspace, log: LogSnapshot) -> tuple[pa.Table, pa.Table]:
    """Return the newest record of each item in the stream's log, and the others.

    Of several records with one position, which were taken up together, the last one counts.
    """
    rows = log.read(workspace, ITEM_LOG)
    order = np.argsort(np.asarray(rows.column(STREAM_POSITION)), kind="stable")
    rows = rows.take(pa.array(order)).drop_columns([STREAM_POSITION]).cast(ITEMS).combine_chunks()
    _, last = np.unique(string_ranks(rows.column("item_id"))[::-1], return_index=True)
    newest = np.zeros(rows.num_rows, dtype=bool)
    newest[rows.num_rows - 1 - last] = True
    return rows.filter(pa.array(newest)), rows.filter(pa.array(~newest))


def between_positions(batch: RawBatch, source: Source) -> RawBatch:
    """Return the rows of a source, without their positions in the stream."""
    if source.after is None or source.upto is None:
        return batch
    position = batch.rows.column(STREAM_POSITION)
    wanted = pc.and_(pc.greater(position, source.after), pc.less_equal(position, source.upto))
    return RawBatch(batch.rows.filter(wanted).drop_columns([STREAM_POSITION]), [], batch.source)


def clean_before(workspace: Workspace) -> dict[str, Manifest]:
    """Return the manifests of what an earlier validation has written.

    Raises:
        CannotFoldError: There is none, or not a whole one.
    """
    tables = [workspace.table(name) for name in ("dead_letters", *CLEAN_TABLES.values())]
    optional = [CLEAN_TABLES[name] for name in OPTIONAL]
    return standing(table for table in tables if table.name not in optional or table.exists())


def stream_position(manifest: Manifest) -> int:
    """Return the position up to which the stream's log is in a table of clean rows."""
    return int(manifest.inputs.get(STREAM, "0").split()[0])


def _rows(workspace: Workspace, log: LogSnapshot, table: str, position: int) -> int:
    """Return the number of rows of the log up to a position."""
    if not log.files[table] or not position:
        return 0
    rows = ds.dataset(list(log.files[table]), format="parquet", filesystem=workspace.filesystem)
    return int(rows.count_rows(filter=pc.field(STREAM_POSITION) <= position))


def _require_tables(workspace: Workspace, present: list[str]) -> None:
    missing = [name for name in RAW_TABLES if name not in (*present, *OPTIONAL)]
    if missing:
        folders = " and ".join(workspace.table(name).root for name in missing)
        raise FileNotFoundError(
            f"no {' and no '.join(missing)} table: expected files ({', '.join(FORMATS)}) in {folders}; "
            + "; ".join(
                ["put your data there, or run `pagewise simulate` or `pagewise import`", *unread_files(workspace)]
            )
        )
