"""What stands between HTTP and the core: one thread for torch, a deadline per request, fresh items and catalogues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from features.store.base import StoreUnavailableError
from serving.api import ApiError, RecommendRequest, RecommendResponse, SimilarResponse, VersionResponse
from serving.arms import Arms
from serving.batching import Batcher
from serving.config import ServeConfig
from serving.events import EventIntake, Verdict
from serving.fallbacks import DEADLINE
from serving.item_details import ItemDetails
from serving.pages import Answer
from serving.service import RecommendService
from serving.users import UserResponse

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Backend:
    """Answers single requests without ever computing on the event loop.

    Pages are made in one thread (torch must not run twice at once on few cores), and while it makes a batch, the next
    one gathers; everything quick, fallback pages included, in another, so that it is never behind a long batch. What
    will be served next is made in a third, and events wait for the stream in two of their own.

    Args:
        service: The core.
        config: Batches, the deadline, and how often to look for newer items and catalogue deltas.
        intake: Takes events; None refuses them.
        on_close: Called by `close`, after the last page.
    """

    def __init__(
        self,
        service: RecommendService | Arms,
        config: ServeConfig,
        intake: EventIntake | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.service = service
        self._intake, self._on_close = intake, on_close
        self._config = config
        self._batches = Batcher(self._make_pages, config.max_batch, config.batch_wait_ms / 1000)
        self._late = Batcher(self._make_fallbacks, config.max_batch)
        self._pages = ThreadPoolExecutor(1, thread_name_prefix="pages")
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="quick")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self._events = ThreadPoolExecutor(2, thread_name_prefix="events")

    async def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Answer one request; after the deadline from the popular list.

        Raises:
            ApiError: The request asks for something this release refuses.
        """
        self.service.check(request)
        try:
            answer = await asyncio.wait_for(self._batches.ask(request), self._config.request_timeout_s)
        except TimeoutError:
            answer = await self._late.ask(request)
        if isinstance(answer, ApiError):
            raise answer
        if answer.row is not None:
            self.service.log(answer.row)
        return answer.page

    async def similar(self, item_id: str, k: int) -> SimilarResponse:
        """See `RecommendService.similar`."""
        return await self._run(self.service.similar, item_id, k)

    async def user(self, user_id: str, limit: int) -> UserResponse:
        """See `RecommendService.user`."""
        return await self._run(self.service.user, user_id, limit)

    async def some_users(self, count: int) -> list[str]:
        """See `RecommendService.some_users`."""
        return await self._run(self.service.some_users, count)

    async def items(self, item_ids: Sequence[str]) -> list[ItemDetails]:
        """See `RecommendService.items`."""
        return await self._run(self.service.items, item_ids)

    async def take_events(self, rows: Sequence[object]) -> list[Verdict]:
        """See `EventIntake.take`.

        Raises:
            ApiError: 503.
        """
        if self._intake is None:
            raise ApiError(503, "no_stream", "this service was started without an event stream; see `pagewise serve`")
        return await asyncio.get_running_loop().run_in_executor(self._events, self._intake.take, rows)

    async def version(self) -> VersionResponse:
        """See `RecommendService.version`."""
        return await self._run(self.service.version)

    async def check_ready(self) -> None:
        """See `RecommendService.check_ready`."""
        await self._run(self.service.check_ready)

    async def refresh_forever(self) -> None:
        """Take newer items from the store and new catalogue deltas whenever there are some, until cancelled."""
        await asyncio.gather(
            self._repeat(self.service.refresh_facts, self._config.refresh_s),
            self._repeat(self.service.follow_deltas, self._config.deltas_s),
        )

    async def _repeat(self, refresh: Callable[[], object], seconds: float) -> None:
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(self._beside, refresh)
            except StoreUnavailableError as error:
                _log.warning("items stay as they are: %s", error)
            except Exception:  # an end of this task would go unnoticed
                _log.exception("items stay as they are")
            await asyncio.sleep(seconds)

    async def follow_deltas(self) -> None:
        """Take new catalogue deltas now."""
        await asyncio.get_running_loop().run_in_executor(self._beside, self.service.follow_deltas)

    def close(self) -> None:
        """Let the threads end after what they are doing."""
        self._pages.shutdown(wait=False)
        for threads in (self._quick, self._beside, self._events):
            threads.shutdown(wait=False)
        if self._on_close is not None:
            self._on_close()

    async def _make_pages(self, requests: list[RecommendRequest]) -> list[Answer | ApiError]:
        return await asyncio.get_running_loop().run_in_executor(self._pages, self.service.recommend, requests)

    async def _make_fallbacks(self, requests: list[RecommendRequest]) -> list[Answer | ApiError]:
        return await self._run(self.service.fallback, requests, DEADLINE)

    async def _run(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._quick, function, *arguments)
