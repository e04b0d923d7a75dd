"""Served pages, sent to the event stream without ever holding up a page.

A page waits in memory until the stream has it, as does what was read for it (`feature_log`). While the stream does not
answer, pages go on being served and the newest `most_waiting` rows wait; older ones are dropped, and counted. So a page
is logged unless the process is killed within the few milliseconds before it is sent, or the stream stays away for
longer than what may wait.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import threading
from collections.abc import Mapping, Sequence

from features.stream.base import EventStream
from features.stream.records import FEATURES, PAGES, StreamRecord
from models.recommend.deltas import CatalogueState, catalogue_version
from models.recommend.policy import Policy
from models.recommend.recommender import Page
from serving.api import RecommendResponse
from serving.cursors import Asked
from serving.metrics import ServiceMetrics

MOST_WAITING = 10_000
"""Pages of a hundred candidates take about 6 KB each."""
BATCH = 200
"""Pages of one record: one append, one message."""
GATHER_S = 0.01
"""Rows of so long go together: a thread that wakes up for each page holds up those who make pages."""
RETRY_S = 1.0
"""Pause after an append that the stream did not take."""

_log = logging.getLogger(__name__)


def page_row(
    state: CatalogueState, policy: Policy, asked: Asked, answer: RecommendResponse, page: Page, now: int
) -> dict[str, object]:
    """Return a served page as columns of `features.schemas.PAGES`; nobody has acted on it yet.

    Args:
        state: What it was made with.
        policy: What it was drawn by.
        asked: What was asked for.
        answer: What was answered.
        page: Propensities and candidates.
        now: When, milliseconds since 1970 UTC.
    """
    manifest = state.release.manifest
    return {
        "request_id": answer.request_id,
        "user_id": asked.user_id,
        "timestamp": now,
        **page.logged(policy),
        "arm": answer.arm,
        "release": manifest.release_id,
        "catalogue_version": catalogue_version(manifest.catalogue, state.delta),
        "filters": None if asked.filters is None else json.dumps(asked.filters),
        "context": None if asked.context is None else json.dumps(asked.context),
        "fallback": answer.fallback,
    }


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """A row, and the table of the stream it is for."""

    table: str
    row: Mapping[str, object]


class PageLog:
    """Sends rows to the stream from a thread of its own; `add` never waits.

    Args:
        stream: Where to; the caller closes it after this.
        metrics: Count what is sent, what waits and what is dropped.
        most_waiting: Rows kept while the stream does not take them.
        retry_s: Pause after an append that the stream did not take.
    """

    def __init__(
        self,
        stream: EventStream,
        metrics: ServiceMetrics,
        *,
        most_waiting: int = MOST_WAITING,
        retry_s: float = RETRY_S,
    ) -> None:
        self._stream, self._metrics, self._retry_s, self._most = stream, metrics, retry_s, most_waiting
        self._counters = {PAGES: metrics.logged_pages, FEATURES: metrics.logged_features}
        self._rows: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="page log", daemon=True)
        self._thread.start()

    def add(self, row: Mapping[str, object], table: str = PAGES) -> None:
        """Send a page, or what was read for it, soon; the oldest row that waits is dropped where too many do."""
        with self._changed:
            self._rows.append(_Waiting(table, row))
            if len(self._rows) > self._most:
                self.count(self._rows.popleft().table, "dropped")
            self._metrics.waiting_pages.set(len(self._rows))
            if len(self._rows) in (1, BATCH):
                self._changed.notify()

    def close(self, wait_s: float = 5.0) -> None:
        """Send what waits, for so long at most; what the stream does not take is dropped, and counted."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)
        for table, rows in _by_table(list(self._rows)).items():
            self.count(table, "dropped", len(rows))

    def count(self, table: str, outcome: str, rows: int = 1) -> None:
        """Count rows that were `logged` or `dropped`."""
        self._counters[table].labels(outcome).inc(rows)

    def _work(self) -> None:
        while rows := self._next():
            closing = self._closing
            if self._sent(rows):
                continue
            if closing:  # what was under way when the log was closed gets one more try
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._retry_s)

    def _next(self) -> list[_Waiting]:
        """Wait for rows and return the oldest; none once the log is closed and everything is sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._closing)
            self._changed.wait_for(lambda: len(self._rows) >= BATCH or self._closing, GATHER_S)
            return [self._rows[place] for place in range(min(BATCH, len(self._rows)))]

    def _sent(self, rows: list[_Waiting]) -> bool:
        """Append rows, and return whether they need wait no more."""
        tables, outcome = _by_table(rows), "logged"
        try:
            self._stream.append([StreamRecord.of_rows(table, found) for table, found in tables.items()])
        except (TypeError, ValueError):  # no stream will ever take what cannot be written as JSON
            _log.exception("%d rows are no JSON and are dropped", len(rows))
            outcome = "dropped"
        except Exception as error:  # whatever it is: an end of this thread would go unnoticed
            _log.warning("%d rows wait for the stream: %s", len(self._rows), error)
            return False
        with self._changed:
            # the oldest may have been dropped meanwhile
            sent = {id(row) for row in rows}
            while self._rows and id(self._rows[0]) in sent:
                self._rows.popleft()
            for table, found in tables.items():
                self.count(table, outcome, len(found))
            self._metrics.waiting_pages.set(len(self._rows))
        return True


def _by_table(waiting: Sequence[_Waiting]) -> dict[str, list[Mapping[str, object]]]:
    rows: dict[str, list[Mapping[str, object]]] = {}
    for one in waiting:
        rows.setdefault(one.table, []).append(one.row)
    return rows
