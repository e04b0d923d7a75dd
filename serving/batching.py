"""Requests that are answered together: while one batch is being made, what arrives forms the next one.

Ray Serve's own `serve.batch` forms batches as requests arrive, before it waits for the batch that is being made: unless
the first of each also waits for company, every request is a batch of its own, however many there are.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Batcher(Generic[Request, Result]):
    """Gathers the requests of one event loop; one batch is made at a time.

    Args:
        make: Answers a batch, one answer per request.
        most: Requests of one batch.
        wait_s: For so long the first request of a batch waits for others, unless `most` are there.
    """

    def __init__(
        self, make: Callable[[list[Request]], Awaitable[Sequence[Result]]], most: int, wait_s: float = 0.0
    ) -> None:
        self._make, self._most, self._wait_s = make, most, wait_s
        self._waiting: collections.deque[tuple[Request, asyncio.Future[Result]]] = collections.deque()
        self._full = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    async def ask(self, request: Request) -> Result:
        """Return the answer to one request; if the caller is cancelled before its batch begins, it is left out."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if len(self._waiting) >= self._most:
            self._full.set()
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._company()
                await self._answer(self._next())
        finally:
            self._working = None

    async def _company(self) -> None:
        """Wait for more requests, where that is asked for and they are too few."""
        if self._wait_s > 0 and len(self._waiting) < self._most:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._wait_s)

    def _next(self) -> list[tuple[Request, asyncio.Future[Result]]]:
        batch = list[tuple[Request, asyncio.Future[Result]]]()
        while self._waiting and len(batch) < self._most:
            request, answer = self._waiting.popleft()
            if not answer.done():  # else nobody waits for it any more
                batch.append((request, answer))
        return batch

    async def _answer(self, batch: list[tuple[Request, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        try:
            results = await self._make([request for request, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
