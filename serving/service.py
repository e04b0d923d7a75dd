"""The service's core: what the online store knows of users -> the release's page maker -> answers. No Ray, no HTTP.

Legend: `B` requests answered together.
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

from features.columns import Columns
from features.store.base import ItemFacts, KnownUsers, OnlineStore, StoreUnavailableError
from features.values import items_without_events
from models.recommend.delta_files import delta_stamp
from models.recommend.deltas import CatalogueState, caught_up
from models.recommend.known import request_of_users
from models.recommend.recommender import POPULAR, TRANSITIONS, Page, Recommender, request_seeds
from models.recommend.release import Release
from models.recommend.rules import Filters
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
"""Fallbacks of the service itself, beside retrievers' names: nothing is known of users; the answer took too long."""

FACTS_PER_READ = 5000
STORE_REST_S = 1.0
"""After a read that the store did not answer, pages are made without it for so long: waiting for a store that hangs,
every request again, would hold up everybody."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Served:
    """What answers are made with, changed as one: a request that has begun ends with what it began with."""

    state: CatalogueState
    popular_only: Recommender

    @property
    def recommender(self) -> Recommender:
        return self.state.recommender


class RecommendService:
    """Answers requests with one release, its catalogue deltas and one online store; safe to call from several threads.

    `refresh_facts` and `follow_deltas` change what is served, and must be called from one thread.

    Args:
        release: What makes the pages.
        store: What is known of users, and newer facts and features of items.
        history_length: Newest events read per user.
        arm: Name of the release's part in an experiment, or of the alias it was found by.
        clock: Returns Unix seconds.
        id_factory: Names each request; its exploration follows from the name.
    """

    def __init__(
        self,
        release: Release,
        store: OnlineStore,
        *,
        history_length: int,
        arm: str,
        clock: Callable[[], float] = time.time,
        id_factory: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.store = store
        self.arm = arm
        self.metrics = ServiceMetrics()
        self.metrics.release.labels(release.manifest.release_id, arm).set(1)
        self._history_length = history_length
        self._clock, self._id_factory = clock, id_factory
        self._facts_generation: str | None = None
        self._has_item_features = False
        self._store_rests_until = -math.inf
        self._refused: tuple[tuple[object, ...], str | None] = ((), None)
        self._use(CatalogueState.of(release))
        self.follow_deltas()

    @property
    def release(self) -> Release:
        """The release, whose page maker is the one in use."""
        return self._served.state.release

    def check(self, request: RecommendRequest) -> None:
        """Refuse what the page maker would refuse, before it reaches a batch.

        Raises:
            ApiError: 422.
        """
        largest = self._served.recommender.config.max_page_size
        if request.page_size is not None and request.page_size > largest:
            raise ApiError(422, "invalid_request", f"page_size: expected 1 to {largest}, got {request.page_size}")
        try:
            _filters(request.filters)
        except ValueError as error:
            raise ApiError(422, "invalid_request", str(error)) from error

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse]:
        """Answer checked requests together; an unknown user gets the popular list, named so."""
        self.metrics.batch_size.observe(len(requests))
        served = self._served
        return self._answer(served.state, served.recommender, requests, None)

    def fallback(self, request: RecommendRequest, reason: str) -> RecommendResponse:
        """Answer one checked request from the popular list, with everything excluded that must be."""
        served = self._served
        (answer,) = self._answer(served.state, served.popular_only, [request], reason)
        return answer

    def similar(self, item_id: str, k: int) -> SimilarResponse:
        """Return up to `k` items that users turn to around this one.

        Raises:
            ApiError: 404, the item is not in the catalogue, or the release has no item transitions.
        """
        state = self._served.state
        if int(state.recommender.catalogue.numbers([item_id])[0]) < 0:
            raise ApiError(404, "unknown_item", f"item {item_id!r} is not in the catalogue of this release")
        if TRANSITIONS not in state.recommender.retrievers:
            raise ApiError(404, "no_transitions", "this release has no item transitions; release one that has")
        found = state.recommender.similar(item_id, k, self._now())
        items = [SimilarItem(item_id=other, score=score) for other, score in found]
        release_id = state.release.manifest.release_id
        return SimilarResponse(item_id=item_id, items=items, release=release_id, delta=state.delta)

    def version(self) -> VersionResponse:
        """Say what is running; what the store holds is left out while it does not answer."""
        try:
            freshness = self.store.freshness()
        except StoreUnavailableError:
            freshness = None
        state = self._served.state
        manifest = state.release.manifest
        return VersionResponse(
            version=importlib.metadata.version("pagewise"),
            release=manifest.release_id,
            delta=state.delta,
            delta_refused=self._refused[1],
            generation=manifest.generation,
            code_version=manifest.code_version,
            arm=self.arm,
            policy=self.policy,
            retrievers=list(manifest.retrievers),
            runs=dict(manifest.runs),
            items=len(state.recommender.catalogue),
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
        """Take item facts and features from the store if it holds another generation; those in use fill the gaps.

        Returns:
            Whether new ones are in use.
        """
        freshness = self.store.freshness()
        if freshness is None or freshness.generation == self._facts_generation:
            return False
        if freshness.newest_event_time is not None:
            self.metrics.newest_event.set(freshness.newest_event_time / 1000)
        state = self._served.state
        ids = state.recommender.catalogue.item_ids.to_pylist()
        facts: list[ItemFacts | None] = []
        for start in range(0, len(ids), FACTS_PER_READ):
            facts += self.store.items(ids[start : start + FACTS_PER_READ])
        features = self.store.item_features(ids)
        self._use(state.with_fresh_items(facts, features))
        self._has_item_features = features is not None
        self._facts_generation = freshness.generation
        return True

    def follow_deltas(self) -> bool:
        """Take the release's new catalogue deltas; one that cannot be used is logged, and what is served stays.

        Returns:
            Whether there were any.
        """
        state = self._served.state
        stamp = delta_stamp(state.release.directory, after=state.delta)
        if stamp == self._refused[0]:
            return False
        newer, error = caught_up(state, self._features_of)
        self._use(newer)
        self._refused = (stamp, str(error)) if error is not None else ((), None)
        self.metrics.delta_refused.set(error is not None)
        if error is not None:
            _log.error("catalogue delta %d is served on: %s", newer.delta, error)
        return newer is not state

    @property
    def policy(self) -> str:
        """Name of the stochastic last stage: its parameters."""
        return self._served.recommender.policy.name

    def _use(self, state: CatalogueState) -> None:
        """Serve with this state from the next request on."""
        maker = state.recommender
        popular_only = Recommender(maker.catalogue, [maker.retrievers[POPULAR]], maker.config, maker.facts)
        self._served = _Served(state=state, popular_only=popular_only)
        self.metrics.delta.set(state.delta)

    def _features_of(self, item_ids: pa.Array) -> Columns | None:
        """Return the item features of new items by now, where the ranker has those of the others."""
        if not self._has_item_features:
            return None
        try:
            return self.store.item_features(item_ids.to_pylist()) or items_without_events(len(item_ids))
        except StoreUnavailableError:
            return items_without_events(len(item_ids))

    def _answer(
        self,
        state: CatalogueState,
        recommender: Recommender,
        requests: Sequence[RecommendRequest],
        reason: str | None,
    ) -> list[RecommendResponse]:
        user_ids = [request.user_id for request in requests]
        users = self._users(user_ids)
        if users is None:
            users, reason = KnownUsers.strangers(user_ids), STORE_UNAVAILABLE
        times_B = np.full(len(requests), self._now(), dtype=np.int64)
        contexts = [request.context for request in requests]
        sizes = [request.page_size or recommender.config.page_size for request in requests]
        # slots are drawn one after the other, so the first slots of a longer page are a page of their own
        request_ids = [self._id_factory() for _ in requests]
        pages = recommender.pages(
            request_of_users(users, recommender.catalogue, times_B, contexts),
            page_size=max(sizes),
            seeds_B=request_seeds(request_ids),
            filters=[_filters(request.filters) for request in requests],
        )
        answers = zip(request_ids, pages, sizes, strict=True)
        return [self._response(state, request_id, page, size, reason) for request_id, page, size in answers]

    def _users(self, user_ids: list[str]) -> KnownUsers | None:
        """Read what is known of users; None while the store does not answer."""
        if time.monotonic() < self._store_rests_until:
            return None
        try:
            with self.metrics.store_seconds.time():
                users = self.store.users(user_ids, self._history_length)
        except StoreUnavailableError:
            _log.exception("pages are made without knowing users")
            self.metrics.store_failures.inc()
            self._store_rests_until = time.monotonic() + STORE_REST_S
            return None
        self.metrics.store_corrupted.set(self.store.corrupted)
        return users

    def _response(
        self, state: CatalogueState, request_id: str, page: Page, size: int, reason: str | None
    ) -> RecommendResponse:
        fallback = reason or page.fallback
        self.metrics.pages.labels(fallback or "none").inc()
        if len(page.items) < size:
            self.metrics.short_pages.labels("some" if page.items else "none").inc()
        rows = zip(page.items[:size], page.scores, page.sources, page.parts, strict=False)
        return RecommendResponse(
            request_id=request_id,
            items=[
                RecommendedItem(item_id=item, score=score, source=source, parts=parts)
                for item, score, source, parts in rows
            ],
            release=state.release.manifest.release_id,
            delta=state.delta,
            policy=state.recommender.policy.name,
            arm=self.arm,
            fallback=fallback,
            # the page was made for the longest of its batch: it may be long enough for this request
            reason=page.reason if len(page.items) < size else None,
        )

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _filters(spec: FilterSpec | None) -> Filters | None:
    return None if spec is None else Filters(**spec.model_dump())
