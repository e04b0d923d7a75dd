"""The loop around the pipeline: open a range, take it up, mark it done, again.

A range is one run of a Beam pipeline. What it writes counts once it is done; until then the same range is taken up
again, by this process after Redis did not answer or a disk was full, or by the next one after a crash.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from features.online.item_buckets import BUCKETS
from features.store.base import LeaseLostError, StoreUnavailableError, WriterLease
from features.store.redis_store import RedisStore
from features.stream.base import EventStream, StreamUnavailableError
from features.stream.records import Message
from features.workspace import Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.forgetting.stream_log import forget_in_log
from pipelines.streaming.compaction import compact
from pipelines.streaming.folding import Folding, fold_waiting_items
from pipelines.streaming.generations import Generations, refresh_all_items
from pipelines.streaming.log import Range
from pipelines.streaming.metrics import StreamMetrics
from pipelines.streaming.ranges import RangeLog
from pipelines.streaming.repeated import RepeatedPipeline
from pipelines.streaming.taking import forget_pieces, hand_over, take
from pipelines.streaming.transforms import Part, TakeUpRange, Task, Work, read_summary

RETRY_S = 0.5
"""Seconds before a store or stream that does not answer is asked again."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class StreamDriver:
    """Takes up ranges of a stream; there must be one driver per workspace and store, which the lease sees to.

    Args:
        workspace: Takes the log.
        store: Takes the features.
        stream: Where messages come from.
        folding: Options; its range and generation are not looked at.
        lease: Of the store, under the name `features.store.backfill.STREAM`.
        metrics: Takes what is to be told.
        on_items: Called after a range that held items.
        beam_options: Beam's own options; default: in this process.
    """

    def __init__(
        self,
        workspace: Workspace,
        store: RedisStore,
        stream: EventStream,
        folding: Folding,
        lease: WriterLease,
        metrics: StreamMetrics,
        on_items: Callable[[], None],
        beam_options: Sequence[str] = (),
    ) -> None:
        self._workspace, self._store, self._stream, self._folding = workspace, store, stream, folding
        self._lease, self._metrics, self._on_items = lease, metrics, on_items
        uri = workspace.root if workspace.is_local else workspace.uri
        self._owner = uuid.uuid4().hex
        work = Work(uri, folding, self._owner)
        self._pipeline = RepeatedPipeline(beam_options, lambda pipeline: pipeline | TakeUpRange(work))
        self._config = folding.stream
        self.log = RangeLog(workspace)
        self._helper = concurrent.futures.ThreadPoolExecutor(1, "compaction")
        self._compaction: concurrent.futures.Future[Range] | None = None
        self._generations, self._behind = Generations(workspace, store, folding, lease.check), False
        self._generation, self._items_wait = 0, True
        self._asked: dict[tuple[str, int], int] = {}

    def run(
        self, stopping: threading.Event, progress: Callable[[Range], None], trouble: Callable[[Exception], None]
    ) -> None:
        """Take up ranges until `stopping` is set, or with `stream.until_empty` until nothing waits.

        Args:
            stopping: Set from a signal handler or another thread; the present range is finished first.
            progress: Called after each range.
            trouble: Called while Redis does not answer, or a disk is full, each time before the next attempt.

        Raises:
            LeaseLostError: Another process may be writing by now.
            StoreUnavailableError: Redis does not answer, with `stream.until_empty` or at the very end; else it is asked
                again and again.
            OSError: A disk is full, likewise.
        """
        try:
            while not stopping.is_set():
                began = time.monotonic()
                try:
                    done = self.step()
                except Exception as error:
                    if self._config.until_empty or not may_pass(error):
                        raise
                    self._metrics.retries.inc()
                    stopping.wait(RETRY_S)
                    trouble(error)
                    continue
                if done is not None:
                    progress(done)
                    stopping.wait(max(0.0, began + self._config.interval_s - time.monotonic()))
                elif self._config.until_empty and not self._behind:
                    break
            self._fold_waiting_items(BUCKETS)
        finally:
            self._helper.shutdown()

    def step(self) -> Range | None:
        """Take up the range that is open, or the next messages; None where none came within `stream.interval_s`."""
        self._lease.check()
        began = time.monotonic()
        generation, self._behind = self._generations.keep_up(self.log.position)
        self._generation = generation
        self._metrics.generation.set(generation)
        self._stream.trim(self.log.position)
        self._compact()
        self._forget()
        messages = self._messages()
        self._note_taken(messages)
        if self.log.open_range is None:
            self._fold_waiting_items(1)
            return None
        folding = dataclasses.replace(self._folding, generation=generation, taken=self.log.open_range)
        part = self._take_up(messages, folding)
        if part.newest // DAY_MS > folding.taken.watermark // DAY_MS:
            refresh_all_items(self._workspace, part.newest // DAY_MS * DAY_MS, folding, self._lease.check)
        self._lease.check()
        self._items_wait = True
        done = self.log.finish(part.files, part.counts, part.newest)
        self._store.write_progress(generation, done.last, done.newest or None)
        self._metrics.done(done, messages, time.monotonic() - began, self._stream.backlog(done.last))
        if done.counts.get("items.logged"):
            self._on_items()
        return done

    def _fold_waiting_items(self, buckets: int) -> None:
        """Fold, when nothing comes any more, what happened to items and waits for its turn."""
        if not self._items_wait or self.log.open_range is not None:
            return
        if self._store.progress(self._generation) != self.log.position:
            return  # a store that was set back gets first from the log what it has lost
        folding = dataclasses.replace(self._folding, generation=self._generation)
        folding = folding.up_to(self.log.position, self.log.watermark)
        self._items_wait = not fold_waiting_items(folding.midnight_ms, folding, self._lease.check, buckets)

    def _messages(self) -> list[Message]:
        """Return the messages of the open range; where none is open, of the next, which is opened."""
        opened = self.log.open_range
        if opened is not None:
            return self._stream.read_range(opened.first, opened.last)
        wait_s = 0.0 if self._behind else self._config.interval_s
        messages = take(self._stream, self.log.position, self._config.range_rows, wait_s)
        if messages:
            self.log.open(messages[0].position, messages[-1].position)
        return messages

    def _note_taken(self, messages: Sequence[Message]) -> None:
        """Count down what waited when users were asked to be forgotten: no clock says what came before that."""
        self._asked = {each: max(0, before - len(messages)) for each, before in self._asked.items()}

    def _take_up(self, messages: Sequence[Message], folding: Folding) -> Part:
        if not messages:  # Redis lost them before they were taken up
            return Part()
        spans = hand_over(self._owner, messages)
        Task(owner=self._owner, taken=folding.taken, generation=folding.generation, spans=spans).write(self._workspace)
        try:
            self._pipeline.run()
        except Exception as error:  # Beam tells as text what failed inside
            if LeaseLostError.__name__ in str(error):
                raise LeaseLostError(str(error)) from error
            if any(kind.__name__ in str(error) for kind in (StoreUnavailableError, StreamUnavailableError)):
                raise StoreUnavailableError(str(error)) from error
            for number in FULL_DISK:
                if os.strerror(number) in str(error):
                    raise OSError(number, str(error)) from error
            raise
        finally:
            forget_pieces(self._owner)
        return read_summary(self._workspace, folding.taken)

    def _forget(self) -> None:
        """Forget who is to be forgotten, once everything that came before that was asked is taken up."""
        asked = self._store.to_be_forgotten()
        if self.log.open_range is not None:
            return
        known, waiting = self._asked, self._stream.backlog(self.log.position) if asked else 0
        self._asked = {each: min(known.get(each, waiting), waiting) for each in asked.items()}
        due = [user for (user, _), before in self._asked.items() if not before]
        if not due:
            return
        self._put_compaction_in_place()
        forget_in_log(self._workspace, self.log, due)
        self._store.remove_users(due)
        self._store.forgotten(due)

    def _compact(self) -> None:
        """Make large files of small ones beside the work; what is ready is put in place between ranges."""
        if self._compaction is not None and self._compaction.done():
            self._put_compaction_in_place()
        if self._compaction is None and len(self.log.done) >= self._config.compact_ranges:
            self._compaction = self._helper.submit(compact, self._workspace, self.log.compacted, list(self.log.done))

    def _put_compaction_in_place(self) -> None:
        """Wait for the compaction that runs, if one does; one that failed is forgotten, and begun anew some time."""
        compaction, self._compaction = self._compaction, None
        if compaction is not None:
            self.log.replace(compaction.result())


def may_pass(error: Exception) -> bool:
    """Return whether what failed may work later: Redis does not answer, or a disk is full."""
    return isinstance(error, StoreUnavailableError | StreamUnavailableError) or (
        isinstance(error, OSError) and error.errno in FULL_DISK
    )
