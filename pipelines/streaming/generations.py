"""Which generation of the store is folded into, and how one that lacks events gets them: from the stream's log.

A back-filled generation covers the stream up to some position. What came since is folded into it from the log, in
chunks, before it is read; so is what a store forgot that lost its last writes. Of what the back-fill covers, the newest
events and pages are folded once more, which tells nothing new but to the views by which duplicates are known.
A generation that waits gets a chunk per range, so that the one that is read meanwhile stays fresh.

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
from pipelines.streaming.folding import (
    Folding,
    fold_item_shard,
    fold_logged,
    fold_waiting_items,
    refresh_item_shard,
    take_up_items,
)
from pipelines.streaming.log import STREAM, committed_log, write_durably

CHUNK_RANGES = 2
"""So many full ranges are folded at once while a generation catches up: it must do more than the stream adds."""
REFRESHED_ITEMS = 10_000
"""Items whose features are written at once when a midnight passes."""
PLAN = "catch_up.json"


class Generations:
    """Keeps the generations of a store up with the log, for one driver.

    Args:
        workspace: Where the log is.
        store: Whose generations are meant.
        folding: Options; its range and generation are not looked at.
        check: Called before each write; raises if another process may write.
    """

    def __init__(self, workspace: Workspace, store: OnlineStore, folding: Folding, check: Callable[[], None]) -> None:
        self._workspace, self._store, self._folding, self._check = workspace, store, folding, check
        self._begun: _Plan | None = None

    def keep_up(self, position: int) -> tuple[int, bool]:
        """Return the generation to fold into, which knows everything that is in the log by then.

        And whether another one, which waits, has still to catch up: it gets a piece of what it lacks at each call.

        Args:
            position: Where the log ends.
        """
        active, waiting = self._store.generations()
        # one that is read but was never folded into, as of an emptied store, need not be brought up first
        live = self._store.progress(active) is not None
        if waiting is None or live:
            while not self._caught_up(active, position, waits=False):
                pass
        if waiting is None:
            return active, False
        while not self._caught_up(waiting, position, waits=True):
            if live:
                return active, True
        self._check()
        self._store.flip(waiting)
        return self._store.generations()[0], False

    def _caught_up(self, generation: int, position: int, *, waits: bool) -> bool:
        """Fold a piece of what a generation lacks; return whether it lacked nothing, or does not any more."""
        reached = self._store.progress(generation)
        if reached is not None and reached >= position:
            return True
        folding = dataclasses.replace(self._folding, generation=generation)
        catch_up = _CatchUp(self._workspace, self._store, folding, self._check)
        if reached is not None:
            return catch_up.fold_on(reached, again=waits)
        if self._begun is None or self._begun.generation != generation:
            self._begun = catch_up.begin()
        self._begun = catch_up.remember(self._begun)
        if self._begun.remembered < self._begun.parts:
            return False
        begun, self._begun = self._begun, None
        return catch_up.begun(begun)


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
    fold_waiting_items(midnight_ms, folding, check)
    for start in range(0, len(ids), REFRESHED_ITEMS):
        check()
        refresh_item_shard(ids.slice(start, REFRESHED_ITEMS), midnight_ms, folding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """How a generation catches up, written down before it is done.

    Attributes:
        generation: Which.
        reached: It has everything up to here.
        ends: Where chunks behind it end.
        since: Time of the oldest rows that are folded once more, milliseconds.
        parts: Parts of the users in which these are folded.
        remembered: How many of the parts are done.
    """

    generation: int
    reached: int
    ends: list[int]
    since: int = 0
    parts: int = 0
    remembered: int = 0

    @classmethod
    def of(cls, text: bytes) -> _Plan | None:
        """Read what was written down; None where another version wrote it."""
        document = json.loads(text)
        return cls(**document) if document.keys() == {field.name for field in dataclasses.fields(cls)} else None


def _covered(reached: int, since: int) -> ds.Expression:
    """Return which rows a back-fill covers that are new enough to have duplicates."""
    return (pc.field(STREAM_POSITION) <= reached) & (pc.field("timestamp") >= pa.scalar(since, TIMESTAMP))


class _CatchUp:
    """Folds into one generation what it lacks of the log."""

    def __init__(self, workspace: Workspace, store: OnlineStore, folding: Folding, check: Callable[[], None]) -> None:
        self._workspace, self._store, self._folding, self._check = workspace, store, folding, check
        self._log = committed_log(workspace)

    def begin(self) -> _Plan:
        """Plan how to catch up from what the back-fill covers, and write that down."""
        said = self._store.freshness(generation=self._folding.generation)
        reached = min(said.position if said else 0, self._log.position)
        since = max(self._log.watermark - self._folding.online.lateness_ms, 0)
        rows = self._dataset(EVENT_LOG).count_rows(filter=_covered(reached, since))
        parts = -(-rows // self._chunk_rows)
        plan = _Plan(
            generation=self._folding.generation, reached=reached, ends=self._ends(reached), since=since, parts=parts
        )
        return self._write(plan)

    def remember(self, plan: _Plan) -> _Plan:
        """Fold a part of the newest rows that the back-fill covers: its views have them, others get them."""
        if plan.remembered == plan.parts:
            return plan
        self._check()
        covered = _covered(plan.reached, plan.since)
        events, pages = (self._of_users(table, covered, plan.remembered, plan.parts) for table in (EVENT_LOG, PAGE_LOG))
        fold_logged(events.select(EVENTS.names), pages.select(PAGES.names), self._until(plan.reached))
        return dataclasses.replace(plan, remembered=plan.remembered + 1)

    def begun(self, plan: _Plan) -> bool:
        """Say that the generation has what the back-fill covers; return whether that is all."""
        self._done(plan.reached)
        return plan.reached >= self._log.position

    def fold_on(self, reached: int, *, again: bool) -> bool:
        """Fold the next chunk; return whether it was the last.

        Args:
            reached: The generation has everything up to here.
            again: Plan anew where all that was planned is done. Only a generation that waits has no views that are
                ahead of what it says; one that is read gets range by range.
        """
        plan = self._held()
        if again and (plan is None or plan.ends[-1] <= reached):
            earlier = [] if plan is None else plan.ends  # a store that loses its last writes comes back to these
            ends = [*earlier, *self._ends(reached)]
            plan = self._write(_Plan(generation=self._folding.generation, reached=reached, ends=ends))
        planned = [] if plan is None else [end for end in plan.ends if end > reached]
        end = min(planned) if planned else int(min(self._positions(reached), default=self._log.position))
        self._fold_chunk(reached, end)
        last = end == self._log.position
        if last:
            folding = self._until(end)
            refresh_all_items(self._workspace, folding.midnight_ms, folding, self._check)
        self._done(end)
        return last

    def _held(self) -> _Plan | None:
        """Return what is written down for this generation."""
        path = self._workspace.path(STREAM, PLAN)
        if self._workspace.filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        plan = _Plan.of(self._workspace.read_bytes(STREAM, PLAN))
        return plan if plan is not None and plan.generation == self._folding.generation else None

    def _write(self, plan: _Plan) -> _Plan:
        text = json.dumps(dataclasses.asdict(plan)).encode()
        write_durably(self._workspace, self._workspace.path(STREAM, PLAN), text)
        return plan

    def _ends(self, reached: int) -> list[int]:
        """Return where chunks of about `CHUNK_RANGES` full ranges end, each at the end of a range."""
        positions, size = np.sort(self._positions(reached)), self._chunk_rows
        ends = {int(positions[at]) for at in range(size, len(positions), size)}
        return sorted({*ends, self._log.position})

    @property
    def _chunk_rows(self) -> int:
        return CHUNK_RANGES * self._folding.stream.range_rows

    def _positions(self, reached: int) -> np.ndarray:
        """Return the end of the range of each row behind a position."""
        behind = pc.field(STREAM_POSITION) > reached
        parts = [
            np.asarray(self._dataset(table).to_table([STREAM_POSITION], filter=behind).column(STREAM_POSITION))
            for table in (EVENT_LOG, PAGE_LOG, ITEM_LOG)
        ]
        return np.concatenate(parts)

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
        of_items = fold_logged(events.select(EVENTS.names), pages.select(PAGES.names), folding)
        self._check()
        fold_item_shard(of_items, folding)

    def _done(self, reached: int) -> None:
        self._store.write_progress(self._folding.generation, reached, self._log.watermark or None)

    def _until(self, position: int) -> Folding:
        return self._folding.up_to(position, self._log.watermark)

    def _dataset(self, table: str) -> ds.Dataset:
        return self._log.dataset(self._workspace, table)

    def _of_users(self, table: str, chosen: ds.Expression, part: int, parts: int) -> pa.Table:
        """Return the rows of a part of the users; never all of them are in memory."""
        found = map(pa.Table.from_batches, ([batch] for batch in self._dataset(table).to_batches(filter=chosen)))
        kept = (rows.filter(pa.array(shard_of(rows.column("user_id"), parts) == part)) for rows in found)
        return pa.concat_tables([LOG_TABLES[table].empty_table(), *kept])
