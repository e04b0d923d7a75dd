"""Parts that fail or take too long: the page is made without them, and they rest for a moment.

Retrievers and rankers are asked in a thread of their own each, so that nobody waits for one longer than its deadline; a
call that missed it ends by itself, and until then its part rests. The popular list is always there and is not guarded.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from models.recommend.interface import Candidates, Ranker, RequestBatch, Retriever
from models.recommend.ranked import POPULAR, PartRestsError
from models.recommend.recommender import Recommender
from serving.metrics import ServiceMetrics

STORE_UNAVAILABLE, DEADLINE = "store_unavailable", "deadline"
"""Fallbacks of the service itself, beside retrievers' names: nothing is known of users; the answer took too long."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Rest:
    """Whether a part is to be left alone for the moment, after it failed.

    Args:
        seconds: How long.
        clock: Returns seconds that never go back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._until = -math.inf

    def begin(self) -> None:
        """Leave the part alone from now on."""
        self._until = self._clock() + self._seconds

    def __bool__(self) -> bool:
        return self._clock() < self._until


class Guard:
    """Asks one part, for as long as its deadline allows, unless it rests.

    Args:
        name: Of the part.
        deadline_s: Longest wait for one answer, None for any.
        rest: When not to ask.
        metrics: Count misses and failures.
    """

    def __init__(self, name: str, deadline_s: float | None, rest: Rest, metrics: ServiceMetrics) -> None:
        self._name, self._deadline_s, self._rest = name, deadline_s, rest
        self._metrics = metrics
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._running: Future[Any] | None = None
        self._thread: threading.Thread | None = None

    def ask(self, call: Callable[[], Result]) -> Result:
        """Return what the part says.

        Raises:
            PartRestsError: It rests, or did not answer in time.
        """
        if self._rest or (self._running is not None and not self._running.done()):
            raise PartRestsError(f"{self._name} rests for a moment")
        try:
            with self._metrics.stage_seconds.labels(self._name).time():
                return self._start(call).result(self._deadline_s)
        except TimeoutError:
            self._rest.begin()
            self._metrics.part_failures.labels(self._name, DEADLINE).inc()
            _log.warning("%s did not answer in time; it rests, and pages are made without it", self._name)
            raise PartRestsError(f"{self._name} did not answer in time") from None
        except Exception:  # counted, and raised on: the page maker leaves the part out and names it
            self._rest.begin()
            self._metrics.part_failures.labels(self._name, "error").inc()
            raise

    def _start(self, call: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._running = future
        if self._thread is None:
            # a daemon: a part that hangs must not keep the process from ending
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put((call, future))
        return future

    def _work(self) -> None:
        while True:
            call, future = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


class GuardedRetriever:
    """A retriever behind its guard."""

    def __init__(self, retriever: Retriever, guard: Guard) -> None:
        self.name = retriever.name
        self._retriever, self._guard = retriever, guard

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """See `Retriever`."""
        return self._guard.ask(lambda: self._retriever.retrieve(requests, k))


class GuardedRanker:
    """A ranker behind its guard."""

    def __init__(self, ranker: Ranker, guard: Guard) -> None:
        self.name = ranker.name
        self._ranker, self._guard = ranker, guard

    def score(self, requests: RequestBatch, items_BK: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """See `Ranker`."""
        return self._guard.ask(lambda: self._ranker.score(requests, items_BK))


class Guards:
    """The guards of a service's parts; they outlive the page makers that they are put around.

    Args:
        deadline_s: Longest wait for one part's answer to one batch, None for any.
        rest_s: How long a part rests.
        metrics: Count misses and failures.
    """

    def __init__(self, deadline_s: float | None, rest_s: float, metrics: ServiceMetrics) -> None:
        self._deadline_s, self._rest_s, self._metrics = deadline_s, rest_s, metrics
        self._guards: dict[str, Guard] = {}

    def around(self, maker: Recommender) -> Recommender:
        """Return the page maker with all parts guarded but the popular list."""
        retrievers = [
            retriever if name == POPULAR else GuardedRetriever(retriever, self._guard(name))
            for name, retriever in maker.retrievers.items()
        ]
        ranker = None if maker.ranker is None else GuardedRanker(maker.ranker, self._guard(maker.ranker.name))
        return maker.with_parts(retrievers=retrievers, ranker=ranker)

    def _guard(self, name: str) -> Guard:
        if name not in self._guards:
            self._guards[name] = Guard(name, self._deadline_s, Rest(self._rest_s), self._metrics)
        return self._guards[name]
