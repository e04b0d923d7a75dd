"""Which generation of the store is folded into, and how one that lacks events gets them: from the stream's log.

A back-filled generation covers the stream up to some position. What came since is folded into it from the log, in
chunks, before it is read; so is what a store forgot that lost its last writes. Of what the back-fill covers, the newest
events and pages are folded once more, which tells nothing new but to the views by which duplicates are known.

A view is folded on only from an earlier position, so a chunk must end where it ended before if it is folded again:
where chunks end is written down first. Without such a plan, chunks are the ranges themselves.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from features.schemas import (
    CLEAN_TABLES,
    EVENT_LOG,
    EVENTS,
    ITEM_LOG,
    LOG_TABLES,
    PAGE_LOG,
    PAGES,
    STREAM_POSITION,
    TIMESTAMP,
)
from features.store.base import OnlineStore
from features.workspace import Workspace
from pipelines.batch.arrow import shard_of
from pipelines.streaming.folding import Folding, fold_item_shard, fold_logged, refresh_item_shard, take_up_items
from pipelines.streaming.log import STREAM, Range, committed_log, write_durably

CHUNK_ROWS = 200_000
"""Events folded at once while a generation catches up."""
REFRESHED_ITEMS = 10_000
"""Items whose features are written at once when a midnight passes."""
PLAN = "catch_up.json"


def keep_up(
    workspace: Workspace, store: OnlineStore, folding: Folding, position: int, check: Callable[[], None]
) -> int:
    """Return the generation to fold into; it knows everything that is in the log by then.

    Args:
        workspace: Where the log is.
        store: Whose generations are meant.
        folding: Options; its range and generation are not looked at.
        position: Where the log ends.
        check: Called before each write; raises if another process may write.
    """
    active, waiting = store.generations()
    target = active if waiting is None else waiting
    reached = store.progress(target)
    if reached is None or reached < position:
        _CatchUp(workspace, store, dataclasses.replace(folding, generation=target), check).run(reached)
    if waiting is None:
        return active
    check()
    store.flip(waiting)
    return store.generations()[0]


def refresh_all_items(workspace: Workspace, midnight_ms: int, folding: Folding, check: Callable[[], None]) -> None:
    """Write the features of all items as of a midnight (milliseconds): they hold until the next.

    Args:
        workspace: Knows the items: its catalogue, and its log.
        midnight_ms: The midnight.
        folding: Its range is the one that has passed the midnight.
        check: See `keep_up`.
    """
    known = [committed_log(workspace).dataset(workspace, ITEM_LOG).to_table(["item_id"])]
    catalogue = workspace.table(CLEAN_TABLES["items"])
    if catalogue.exists():
        known.append(catalogue.read(["item_id"]))
    ids = pa.concat_tables(known).column("item_id").unique()
    for start in range(0, len(ids), REFRESHED_ITEMS):
        check()
        refresh_item_shard(ids.slice(start, REFRESHED_ITEMS), midnight_ms, folding)


class _CatchUp:
    """Folds into one generation what it lacks of the log."""

    def __init__(self, workspace: Workspace, store: OnlineStore, folding: Folding, check: Callable[[], None]) -> None:
        self._workspace, self._store, self._folding, self._check = workspace, store, folding, check
        self._log = committed_log(workspace)

    def run(self, reached: int | None) -> None:
        if reached is None:
            said = self._store.freshness(generation=self._folding.generation)
            reached = min(said.position if said else 0, self._log.position)
            self._plan(reached)
            self._remember(reached)
            self._done(reached)
        while reached < self._log.position:
            end = self._end_behind(reached)
            self._fold_chunk(reached, end)
            if end == self._log.position:
                folding = self._until(end)
                refresh_all_items(self._workspace, folding.midnight_ms, folding, self._check)
            self._done(end)
            reached = end

    def _plan(self, reached: int) -> None:
        """Write down where chunks of about `CHUNK_ROWS` events end, each at the end of a range."""
        positions = np.sort(self._positions(reached))
        ends = sorted({int(positions[at]) for at in range(CHUNK_ROWS, len(positions), CHUNK_ROWS)})
        plan = {"generation": self._folding.generation, "ends": [*ends, self._log.position]}
        write_durably(self._workspace, self._workspace.path(STREAM, PLAN), json.dumps(plan).encode())

    def _end_behind(self, reached: int) -> int:
        path = self._workspace.path(STREAM, PLAN)
        if self._workspace.filesystem.get_file_info(path).type == pafs.FileType.File:
            plan = json.loads(self._workspace.read_bytes(STREAM, PLAN))
            planned = [end for end in plan["ends"] if end > reached]
            if plan["generation"] == self._folding.generation and planned:
                return min(planned)
        return int(min(self._positions(reached), default=self._log.position))

    def _positions(self, reached: int) -> np.ndarray:
        """Return the end of the range of each row behind a position."""
        behind = pc.field(STREAM_POSITION) > reached
        parts = [
            np.asarray(self._dataset(table).to_table([STREAM_POSITION], filter=behind).column(STREAM_POSITION))
            for table in (EVENT_LOG, PAGE_LOG, ITEM_LOG)
        ]
        return np.concatenate(parts)

    def _remember(self, reached: int) -> None:
        """Fold the newest rows that the back-fill covers: the views that it wrote have them, others get them."""
        since = max(self._log.watermark - self._folding.online.lateness_ms, 0)
        covered = (pc.field(STREAM_POSITION) <= reached) & (pc.field("timestamp") >= pa.scalar(since, TIMESTAMP))
        parts = -(-self._dataset(EVENT_LOG).count_rows(filter=covered) // CHUNK_ROWS)
        for part in range(parts):
            self._check()
            events, pages = (self._of_users(table, covered, part, parts) for table in (EVENT_LOG, PAGE_LOG))
            fold_logged(events.select(EVENTS.names), pages.select(PAGES.names), self._until(reached))

    def _fold_chunk(self, reached: int, end: int) -> None:
        chunk = (pc.field(STREAM_POSITION) > reached) & (pc.field(STREAM_POSITION) <= end)
        events, pages, items = (
            self._dataset(table).to_table(filter=chunk) for table in (EVENT_LOG, PAGE_LOG, ITEM_LOG)
        )
        self._check()
        folding = self._until(end)
        if items.num_rows:
            in_order = items.take(pc.sort_indices(items, [(STREAM_POSITION, "ascending")]))
            take_up_items(in_order.drop_columns([STREAM_POSITION]), folding)
        fresh, pairs = fold_logged(events.select(EVENTS.names), pages.select(PAGES.names), folding)
        self._check()
        fold_item_shard(fresh, pairs, folding)

    def _done(self, reached: int) -> None:
        self._store.write_progress(self._folding.generation, reached, self._log.watermark or None)

    def _until(self, position: int) -> Folding:
        taken = Range(first=0, last=position, opened=0, watermark=self._log.watermark)
        return dataclasses.replace(self._folding, taken=taken)

    def _dataset(self, table: str) -> ds.Dataset:
        return self._log.dataset(self._workspace, table)

    def _of_users(self, table: str, chosen: ds.Expression, part: int, parts: int) -> pa.Table:
        """Return the rows of a part of the users; never all of them are in memory."""
        found = map(pa.Table.from_batches, ([batch] for batch in self._dataset(table).to_batches(filter=chosen)))
        kept = (rows.filter(pa.array(shard_of(rows.column("user_id"), parts) == part)) for rows in found)
        return pa.concat_tables([LOG_TABLES[table].empty_table(), *kept])
