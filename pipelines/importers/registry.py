"""All importers by name, and the job that writes their chunks as raw tables."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from features.schemas import MERGED, RAW_TABLES
from features.workspace import FileEntry, Workspace, is_own_name
from pipelines.importers import (
    amazon_reviews,
    mind,
    movielens,
    online_retail,
    open_bandit,
    rees46,
    retailrocket,
    s3rec,
)
from pipelines.importers.base import Chunk, Importer, ImportOptions
from pipelines.importers.reading import Source
from pipelines.report import StageReport, peak_rss_mb

REJECTS = "import_rejects"

IMPORTERS: dict[str, Importer] = {
    "amazon-reviews": Importer(read=amazon_reviews.read, files=amazon_reviews.FILES),
    "mind": Importer(read=mind.read, files=mind.FILES),
    "movielens": Importer(read=movielens.read, files=movielens.FILES),
    "online-retail": Importer(read=online_retail.read, files=online_retail.FILES),
    "open-bandit": Importer(read=open_bandit.read, files=open_bandit.FILES),
    "rees46": Importer(read=rees46.read, files=rees46.FILES),
    "retailrocket": Importer(read=retailrocket.read, files=retailrocket.FILES),
    "s3rec": Importer(read=s3rec.read, files=s3rec.FILES, order_only=True),
}
"""Data set name -> importer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportReport(StageReport):
    """The end of one import; `counts` has `<table>.in`, `.out` and `.dropped.<reason>` (`merged`: into another row)."""

    events: dict[str, int]
    """Written events by kind."""

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        first, *rest = super().lines()
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.events.items()))
        return [first, f"  events by kind: {kinds}", *rest]


def import_dataset(
    name: str,
    source: Path,
    workspace: Workspace,
    *,
    options: ImportOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> ImportReport:
    """Write a public data set as `events`, `items`, perhaps `users` and `served_pages`, and `import_rejects`.

    Files larger than memory are fine: chunks of `options.chunk_rows` rows are written as they are read, and all tables
    are committed at the end; after a failure the workspace is as it was.

    Args:
        name: A key of `IMPORTERS`.
        source: Folder with the publisher's files, or the main file itself.
        workspace: Where the tables are written.
        options: What a user may choose; default: all defaults.
        progress: Called with one line per written chunk.

    Raises:
        FileNotFoundError: The folder or the files are not there; the message lists the expected names.
        ValueError: Unknown name; a file is empty, truncated or not in the expected layout; no row could be used.
    """
    if name not in IMPORTERS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(sorted(IMPORTERS))}")
    importer = IMPORTERS[name]
    started = time.monotonic()
    parts = {table: _Parts(workspace, table) for table in (*RAW_TABLES, REJECTS)}
    try:
        chunks = importer.read(Source(source, importer.files), options or ImportOptions())
        counts, kinds = _write(chunks, parts, progress)
        _check(name, counts)
        notes = {"dataset": name, "order_only": importer.order_only}
        outputs = {table: written.commit(counts, notes) for table, written in parts.items() if written.is_needed}
    except BaseException:
        for written in parts.values():
            written.discard()
        raise
    return ImportReport(
        name=f"import {name}",
        counts=counts,
        seconds=time.monotonic() - started,
        peak_rss_mb=peak_rss_mb(),
        outputs=outputs,
        events=dict(kinds),
    )


class _Parts:
    """The parts of one table written so far."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._table = workspace.table(name)
        self._before = {entry.path for entry in self._table.manifest().files} if self._table.exists() else set()
        self._leftovers = any(is_own_name(info.base_name) for info in self._table.found_files())
        self._entries: list[FileEntry] = []

    def add(self, rows: pa.Table) -> None:
        """Write some rows as the next part."""
        if rows.num_rows:
            self._entries.append(self._table.write_part(rows, shard=len(self._entries)))

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to publish: rows, or older parts that must give way, even of a killed import."""
        return bool(self._entries or self._leftovers)

    def commit(self, counts: dict[str, int], notes: dict[str, object]) -> str:
        """Publish the parts as the table's content; return where it lies."""
        prefix = f"{self._table.name}."
        own = {key.removeprefix(prefix): count for key, count in counts.items() if key.startswith(prefix)}
        self._table.commit(self._entries, counts=own, notes=notes)
        return self._table.root

    def discard(self) -> None:
        """Delete the parts written so far, except those that were there before."""
        filesystem = self._table.workspace.filesystem
        for entry in self._entries:
            if entry.path not in self._before:
                filesystem.delete_file(f"{self._table.root}/{entry.path}")


def _write(
    chunks: Iterable[Chunk], parts: dict[str, _Parts], progress: Callable[[str], None] | None
) -> tuple[dict[str, int], Counter[str]]:
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for chunk in chunks:
        parts[chunk.table].add(chunk.rows)
        parts[REJECTS].add(chunk.rejects)
        counts[f"{chunk.table}.in"] += chunk.read
        counts[f"{chunk.table}.out"] += chunk.rows.num_rows
        dropped = {MERGED: chunk.merged, **_tally(chunk.rejects["reason"])}
        counts.update({f"{chunk.table}.dropped.{reason}": count for reason, count in dropped.items() if count})
        if chunk.table == "events":
            kinds.update(_tally(chunk.rows["event"]))
        if progress:
            progress(f"{chunk.table}: {counts[f'{chunk.table}.in']:,} read, {counts[f'{chunk.table}.out']:,} rows")
    return dict(counts), kinds


def _tally(values: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()}


def _check(name: str, counts: dict[str, int]) -> None:
    for table in RAW_TABLES:
        dropped = sum(count for key, count in counts.items() if key.startswith(f"{table}.dropped."))
        read, out = counts.get(f"{table}.in", 0), counts.get(f"{table}.out", 0)
        assert read == out + dropped, f"{name}, {table}: {read} read, but {out} written and {dropped} dropped"
    if not counts.get("events.out"):
        dropped_by = ", ".join(f"{count:,} {key}" for key, count in counts.items() if ".dropped." in key)
        raise ValueError(f"{name}: not one event could be read ({dropped_by or 'no rows'}); is it the right data set?")
