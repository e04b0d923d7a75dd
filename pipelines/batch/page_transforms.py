"""Clean events and the log of served pages -> pages: the Beam side of `pages`, `page_changes` and `served_pages`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from apache_beam.pvalue import TaggedOutput

from features.schemas import EVENTS, LOG_TABLES, PAGE_LOG, STREAM_POSITION, TABLES
from features.workspace import Table
from pipelines.batch.arrow import decode
from pipelines.batch.config import BatchConfig, PagesConfig
from pipelines.batch.increment import FRESH, FRESH_TABLES
from pipelines.batch.merge import ADDED, REMOVED
from pipelines.batch.page_changes import page_changes
from pipelines.batch.pages import pages_from_events
from pipelines.batch.runner import Counted
from pipelines.batch.served_pages import SERVED_SCHEMA, as_served, first_ids, shown_first, with_served
from pipelines.batch.transforms import COUNTS, ReadTable, open_workspace, split_by_shard

SERVED = ("logged", "given")
"""Inputs with served pages: of the stream's log, and of the raw table. A `Flatten` would hold all of them in memory."""
CUT = "bursts.cut"
"""Counts changed bursts that may have begun before the events that were read."""
_Pieces = tuple[int, Mapping[str, Iterable[bytes]]]
_LOG = LOG_TABLES[PAGE_LOG]
_KEYS = TABLES[FRESH_TABLES["served_pages"]]


class ReadServed(beam.PTransform):
    """Rows of the stream's log of served pages, in `SERVED_SCHEMA`.

    Args:
        uri: The workspace.
        files: Of the log.
        position: Rows up to this position of the stream count.
        since: First day of the files to read, default all.
    """

    def __init__(self, uri: str, files: Sequence[str], position: int, since: str = "") -> None:
        super().__init__()
        self.uri, self.position = uri, position
        self.files = [path for path in files if path.rsplit("/", 2)[1] >= f"date={since}"]

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Read each file."""
        return start | "files" >> beam.Create(self.files) | "read" >> beam.Map(_read_log, self.uri, self.position)


class ReadGiven(beam.PTransform):
    """Rows of `clean_served_pages`, in `SERVED_SCHEMA`, of days from `since` on; none where there is no such table."""

    def __init__(self, uri: str, table: Table, since: str | None = None) -> None:
        super().__init__()
        self.uri, self.table, self.since = uri, table, since

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Read the table."""
        if not self.table.exists():
            return start | "none" >> beam.Create([])
        return start | "read" >> ReadTable(self.uri, self.table, since=self.since) | "as" >> beam.Map(as_served)


class BuildPages(beam.PTransform):
    """Clean events, served pages -> tables of pages.

    Args:
        config: Gap, cap and shards.
        by_day: See `pages_from_events`.
    """

    def __init__(self, config: BatchConfig, *, by_day: bool) -> None:
        super().__init__()
        self.config, self.by_day = config, by_day

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        """Bring users together, then build their pages; inputs are `events` and those of `SERVED`."""
        pieces = _by_user(inputs, self.config.shards)
        return pieces | "users" >> beam.CoGroupByKey() | "pages" >> beam.FlatMap(_pages, self.config.pages, self.by_day)


class ChangePages(beam.PTransform):
    """Clean events since a moment, which of them are `fresh`, served pages -> outputs `added`, `removed`, `counts`.

    Args:
        config: Gap, cap and shards.
        since_ms: The moment; None for all events.
        by_day: See `pages_from_events`.
    """

    def __init__(self, config: BatchConfig, since_ms: int | None, *, by_day: bool) -> None:
        super().__init__()
        self.config, self.since_ms, self.by_day = config, since_ms, by_day

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Bring users together.

        Inputs are `events`, `fresh`, those of `SERVED`, and keys of served pages that are new: `new_served`, and among
        them `new_given` that a raw table tells of.
        """
        change = beam.FlatMap(_change, self.config.pages, self.since_ms, self.by_day)
        pieces = _by_user(inputs, self.config.shards)
        return pieces | "users" >> beam.CoGroupByKey() | "change" >> change.with_outputs(ADDED, REMOVED, COUNTS)


def _by_user(inputs: Mapping[str, beam.PCollection], shards: int) -> dict[str, beam.PCollection]:
    return {
        name: rows | f"{name} by user" >> beam.FlatMap(split_by_shard, "user_id", shards)
        for name, rows in inputs.items()
    }


def _read_log(path: str, uri: str, position: int) -> pa.Table:
    rows = ds.dataset(path, schema=_LOG, filesystem=open_workspace(uri).filesystem)
    return as_served(rows.to_table(filter=pc.field(STREAM_POSITION) <= position))


def _table(blobs: Iterable[bytes], schema: pa.Schema) -> pa.Table:
    held = list(blobs)
    return decode(held) if held else schema.empty_table()


def _events_and_served(shard: _Pieces) -> tuple[pa.Table, pa.Table]:
    events = _table(shard[1]["events"], EVENTS)
    served = _table([blob for name in SERVED for blob in shard[1][name]], SERVED_SCHEMA)
    return pa.concat_tables([events.cast(EVENTS), shown_first(served)]).combine_chunks(), served


def _pages(shard: _Pieces, config: PagesConfig, by_day: bool) -> Iterator[pa.Table]:
    events, served = _events_and_served(shard)
    if events.num_rows:
        yield with_served(pages_from_events(events, config, by_day=by_day), served)


def _change(shard: _Pieces, config: PagesConfig, since_ms: int | None, by_day: bool) -> Iterator[TaggedOutput]:
    events, served = _events_and_served(shard)
    new_served, new_given = (_table(shard[1][name], _KEYS) for name in ("new_served", "new_given"))
    ids = _table(shard[1]["fresh"], EVENTS).column("event_id")
    yield TaggedOutput(COUNTS, Counted(f"{FRESH}.in", len(ids)))
    new_ids = pa.chunked_array([*ids.chunks, *first_ids(new_given).chunks], pa.string()).combine_chunks()
    fresh = np.asarray(pc.is_in(events.column("event_id"), value_set=new_ids), dtype=bool)
    changes = page_changes(events, fresh, new_served, config, by_day=by_day, since_ms=since_ms)
    yield TaggedOutput(COUNTS, Counted("pages.added", changes.added.num_rows))
    yield TaggedOutput(COUNTS, Counted("pages.removed", changes.removed.num_rows))
    yield TaggedOutput(COUNTS, Counted(CUT, changes.cut))
    yield TaggedOutput(ADDED, with_served(changes.added, served))
    yield TaggedOutput(REMOVED, changes.removed)
