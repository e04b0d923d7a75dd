"""The service's core: histories from the online store -> the release's page maker -> answers. No Ray, no HTTP.

Legend: `B` requests answered together, `H` history entries of all of them.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from features.store.base import Histories, ItemFacts, OnlineStore, StoreUnavailableError
from kernels.jagged import offsets_from_lengths, row_numbers
from models.recommend.interface import RequestBatch
from models.recommend.recommender import POPULAR, TRANSITIONS, Page, Recommender, request_seeds
from models.recommend.release import Release
from models.recommend.rules import CatalogueFacts, Filters
from serving.api import (
    ApiError,
    FilterSpec,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    SimilarItem,
    SimilarResponse,
    VersionResponse,
)
from serving.metrics import ServiceMetrics

STORE_UNAVAILABLE, DEADLINE = "store_unavailable", "deadline"
"""Fallbacks of the service itself, beside the retrievers' names: no history could be read; the answer took too long."""

FACTS_PER_READ = 5000
STORE_REST_S = 1.0
"""After a read that the store did not answer, pages are made without it for so long: waiting for a store that hangs,
every request again, would hold up everybody."""

_log = logging.getLogger(__name__)


class RecommendService:
    """Answers requests with one release and one online store; safe to call from several threads.

    Args:
        release: What makes the pages.
        store: Histories and item facts.
        history_length: Newest events read per user.
        arm: Name of the release's part in an experiment, or of the alias it was found by.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        release: Release,
        store: OnlineStore,
        *,
        history_length: int,
        arm: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.release = release
        self.store = store
        self.arm = arm
        self.metrics = ServiceMetrics()
        self.metrics.release.labels(release.manifest.release_id, arm).set(1)
        self._history_length = history_length
        self._clock = clock
        self._facts_generation: str | None = None
        self._store_rests_until = -math.inf
        self._use(release.recommender)

    def check(self, request: RecommendRequest) -> None:
        """Refuse what the page maker would refuse, before it reaches a batch.

        Raises:
            ApiError: 422.
        """
        largest = self._recommender.config.max_page_size
        if request.page_size is not None and request.page_size > largest:
            raise ApiError(422, "invalid_request", f"page_size: expected 1 to {largest}, got {request.page_size}")
        try:
            _filters(request.filters)
        except ValueError as error:
            raise ApiError(422, "invalid_request", str(error)) from error

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse]:
        """Answer checked requests together; an unknown user gets the popular list, named so."""
        self.metrics.batch_size.observe(len(requests))
        return self._answer(self._recommender, requests, None)

    def fallback(self, request: RecommendRequest, reason: str) -> RecommendResponse:
        """Answer one checked request from the popular list, with everything excluded that must be."""
        (answer,) = self._answer(self._popular_only, [request], reason)
        return answer

    def similar(self, item_id: str, k: int) -> SimilarResponse:
        """Return up to `k` items that users turn to around this one.

        Raises:
            ApiError: 404, the item is not in the catalogue, or the release has no item transitions.
        """
        if int(self._recommender.catalogue.numbers([item_id])[0]) < 0:
            raise ApiError(404, "unknown_item", f"item {item_id!r} is not in the catalogue of this release")
        if TRANSITIONS not in self._recommender.retrievers:
            raise ApiError(404, "no_transitions", "this release has no item transitions; release one that has")
        found = self._recommender.similar(item_id, k, self._now())
        items = [SimilarItem(item_id=other, score=score) for other, score in found]
        return SimilarResponse(item_id=item_id, items=items, release=self.release.manifest.release_id)

    def version(self) -> VersionResponse:
        """Say what is running; what the store holds is left out while it does not answer."""
        try:
            freshness = self.store.freshness()
        except StoreUnavailableError:
            freshness = None
        manifest = self.release.manifest
        return VersionResponse(
            version=importlib.metadata.version("pagewise"),
            release=manifest.release_id,
            generation=manifest.generation,
            code_version=manifest.code_version,
            arm=self.arm,
            policy=self.policy,
            retrievers=list(manifest.retrievers),
            items=len(self._recommender.catalogue),
            store_generation=None if freshness is None else freshness.generation,
            store_newest_event_time=None if freshness is None else freshness.newest_event_time,
        )

    def check_ready(self) -> None:
        """Return if the store answers.

        Raises:
            ApiError: 503.
        """
        try:
            self.store.ping()
        except StoreUnavailableError as error:
            raise ApiError(503, "store_unavailable", str(error)) from error

    def refresh_facts(self) -> bool:
        """Take item facts from the store if it holds another generation of them; the release's fill the gaps.

        Returns:
            Whether new facts are in use.
        """
        freshness = self.store.freshness()
        if freshness is None or freshness.generation == self._facts_generation:
            return False
        if freshness.newest_event_time is not None:
            self.metrics.newest_event.set(freshness.newest_event_time / 1000)
        base = self.release.recommender
        ids = base.catalogue.item_ids.to_pylist()
        facts: list[ItemFacts | None] = []
        for start in range(0, len(ids), FACTS_PER_READ):
            facts += self.store.items(ids[start : start + FACTS_PER_READ])
        table = _overlay(base.facts.table, facts)
        retrievers = list(base.retrievers.values())
        facts_now = CatalogueFacts(table, base.catalogue)
        self._use(Recommender(base.catalogue, retrievers, base.config, facts_now, base.ranker))
        self._facts_generation = freshness.generation
        return True

    @property
    def policy(self) -> str:
        """Name of the stochastic last stage: its parameters."""
        policy = self._recommender.policy
        return f"epsilon={policy.epsilon:g},temperature={policy.temperature:g}"

    def _use(self, recommender: Recommender) -> None:
        """Serve with this recommender from the next request on."""
        self._recommender = recommender
        self._popular_only = Recommender(
            recommender.catalogue, [recommender.retrievers[POPULAR]], recommender.config, recommender.facts
        )

    def _answer(
        self, recommender: Recommender, requests: Sequence[RecommendRequest], reason: str | None
    ) -> list[RecommendResponse]:
        user_ids = [request.user_id for request in requests]
        now = self._now()
        histories = self._histories(user_ids)
        if histories is None:
            histories, reason = _no_histories(user_ids), STORE_UNAVAILABLE
        sizes = [request.page_size or recommender.config.page_size for request in requests]
        # slots are drawn one after the other, so the first slots of a longer page are a page of their own
        request_ids = [uuid.uuid4().hex for _ in requests]
        pages = recommender.pages(
            request_batch(histories, recommender, now),
            page_size=max(sizes),
            seeds_B=request_seeds(request_ids),
            filters=[_filters(request.filters) for request in requests],
        )
        answers = zip(request_ids, pages, sizes, strict=True)
        return [self._response(request_id, page, size, reason) for request_id, page, size in answers]

    def _histories(self, user_ids: list[str]) -> Histories | None:
        """Read histories; None while the store does not answer."""
        if time.monotonic() < self._store_rests_until:
            return None
        try:
            with self.metrics.store_seconds.time():
                histories = self.store.histories(user_ids, self._history_length)
        except StoreUnavailableError:
            _log.exception("pages are made without histories")
            self.metrics.store_failures.inc()
            self._store_rests_until = time.monotonic() + STORE_REST_S
            return None
        self.metrics.store_corrupted.set(self.store.corrupted)
        return histories

    def _response(self, request_id: str, page: Page, size: int, reason: str | None) -> RecommendResponse:
        fallback = reason or page.fallback
        self.metrics.pages.labels(fallback or "none").inc()
        rows = zip(page.items[:size], page.scores, page.sources, page.parts, strict=False)
        return RecommendResponse(
            request_id=request_id,
            items=[
                RecommendedItem(item_id=item, score=score, source=source, parts=parts)
                for item, score, source, parts in rows
            ],
            release=self.release.manifest.release_id,
            policy=self.policy,
            arm=self.arm,
            fallback=fallback,
        )

    def _now(self) -> int:
        return int(self._clock() * 1000)


def request_batch(histories: Histories, recommender: Recommender, now: int) -> RequestBatch:
    """Turn histories by item id into requests by catalogue number.

    Items outside the catalogue and events that are not strictly before `now` (milliseconds) are left out.
    """
    numbers = recommender.catalogue.numbers(histories.item_ids)
    kept = np.flatnonzero((numbers >= 0) & (histories.times < now))
    rows = row_numbers(np.diff(histories.offsets))[kept]
    return RequestBatch(
        user_ids=list(histories.user_ids),
        times_B=np.full(len(histories), now, dtype=np.int64),
        history_items=numbers[kept],
        history_events=histories.events[kept],
        history_times=histories.times[kept],
        history_offsets=offsets_from_lengths(np.bincount(rows, minlength=len(histories))),
        excluded_items=np.zeros(0, dtype=np.int64),
        excluded_offsets=np.zeros(len(histories) + 1, dtype=np.int64),
    )


def _no_histories(user_ids: list[str]) -> Histories:
    return Histories(
        user_ids=user_ids,
        offsets=np.zeros(len(user_ids) + 1, dtype=np.int64),
        item_ids=pa.array([], pa.string()),
        events=np.zeros(0, dtype=np.int8),
        times=np.zeros(0, dtype=np.int64),
    )


def _filters(spec: FilterSpec | None) -> Filters | None:
    return None if spec is None else Filters(**spec.model_dump())


def _overlay(table: pa.Table, facts: Sequence[ItemFacts | None]) -> pa.Table:
    """Replace rows of the `items` schema by the store's facts where it has some."""
    rows = table.to_pylist()
    for row, fact in zip(rows, facts, strict=True):
        if fact is not None:
            row.update(dataclasses.asdict(fact))
    return pa.Table.from_pylist(rows, table.schema)
