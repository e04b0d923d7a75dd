"""The service's core: what the online store knows of users -> the release's page maker -> answers. No Ray, no HTTP.

Legend: `B` requests answered together.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from features.columns import Columns
from features.store.base import HISTORY, ItemFacts, OnlineStore, StoreUnavailableError
from features.values import items_without_events
from models.recommend.delta_files import delta_stamp
from models.recommend.deltas import CatalogueState, caught_up
from models.recommend.ranked import POPULAR, TRANSITIONS
from models.recommend.recommender import Recommender
from models.recommend.release import Release
from models.recommend.rules import Filters
from serving.api import ApiError, RecommendRequest, SimilarItem, SimilarResponse, VersionResponse
from serving.cursors import Cursors
from serving.drawing import Served
from serving.fallbacks import STORE_UNAVAILABLE, Guards
from serving.feature_log import FeatureLog, ItemsRead
from serving.item_details import ItemDetails, item_details
from serving.metrics import ServiceMetrics
from serving.page_log import PageLog
from serving.pages import Answer, Pages
from serving.stages import Split
from serving.users import UserResponse, user_response

FACTS_PER_READ = 5000
STORE_REST_S = 1.0
PART_REST_S = 5.0
"""A retriever or ranker that failed, or took too long, is left alone for so long."""

_log = logging.getLogger(__name__)


class RecommendService:
    """Answers requests with one release, its catalogue deltas and one online store; safe to call from several threads.

    `refresh_facts` and `follow_deltas` change what is served, and must be called from one thread.

    Args:
        release: What makes the pages.
        store: What is known of users, and newer facts and features of items.
        history_length: Newest events read per user.
        arm: Name of the release's part in an experiment, or of the alias it was found by.
        cursors: Keeps lists between their pages; None gives pages without a next one.
        page_log: Gets every page that was answered; None logs none.
        feature_share: Share of the pages, 0 to 1, for which the page log gets what was read of user and items, too.
        part_timeout_s: A retriever or ranker that takes longer for a batch is left out of its pages; None waits.
        split: What of the release others answer for; None for nothing.
        metrics: Shared with other services of the process; None for own ones.
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
        cursors: Cursors | None = None,
        page_log: PageLog | None = None,
        feature_share: float = 0.0,
        part_timeout_s: float | None = None,
        split: Split | None = None,
        metrics: ServiceMetrics | None = None,
        clock: Callable[[], float] = time.time,
        id_factory: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.store = store
        self.arm = arm
        self.metrics = metrics or ServiceMetrics()
        self.metrics.release.labels(release.manifest.release_id, arm).set(1)
        self._clock = clock
        self._page_log = page_log
        self._guards = Guards(part_timeout_s, PART_REST_S, self.metrics)
        self._pages = Pages(
            store,
            cursors,
            self.log,
            self.metrics,
            feature_log=None if page_log is None else FeatureLog(page_log, feature_share),
            arm=arm,
            history_length=history_length,
            store_rest_s=STORE_REST_S,
            clock=clock,
            id_factory=id_factory,
        )
        self._facts_generation: str | None = None
        self._items_read: ItemsRead | None = None
        self._refused: tuple[tuple[object, ...], str | None] = ((), None)
        self._split = split
        rest = release.recommender if split is None else split.rest(release.recommender)
        self._use(CatalogueState.of(dataclasses.replace(release, recommender=rest)))
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
        largest = self._served.maker.config.max_page_size
        if request.page_size is not None and request.page_size > largest:
            raise ApiError(422, "invalid_request", f"page_size: expected 1 to {largest}, got {request.page_size}")
        try:
            if request.filters is not None:
                Filters(**request.filters.model_dump())
        except ValueError as error:
            raise ApiError(422, "invalid_request", str(error)) from error

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Answer | ApiError]:
        """Answer checked requests together; an unknown user gets the popular list, named so.

        In place of the answer to a cursor that cannot be used stands the error.
        """
        self.metrics.batch_size.observe(len(requests))
        return self._pages.answer(self._served, requests)

    def fallback(self, requests: Sequence[RecommendRequest], reason: str) -> list[Answer | ApiError]:
        """Answer checked requests from the popular list, with everything excluded that must be."""
        return self._pages.answer(self._served, requests, reason)

    def log(self, row: Mapping[str, object]) -> None:
        """Send a page to the page log, after it was answered."""
        if self._page_log is not None:
            self._page_log.add(row)

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

    def user(self, user_id: str, limit: int) -> UserResponse:
        """Say what is known of a user.

        Raises:
            ApiError: 503.
        """
        try:
            users = self.store.users([user_id], limit)
        except StoreUnavailableError as error:
            raise ApiError(503, STORE_UNAVAILABLE, str(error), retry_after_s=1) from error
        return user_response(users, self._served.state.recommender, self._now())

    def some_users(self, count: int) -> list[str]:
        """Return up to `count` users with a history.

        Raises:
            ApiError: 503.
        """
        try:
            return self.store.some_entities(HISTORY, count)
        except StoreUnavailableError as error:
            raise ApiError(503, STORE_UNAVAILABLE, str(error), retry_after_s=1) from error

    def items(self, item_ids: Sequence[str]) -> list[ItemDetails]:
        """Say what is known of items."""
        return item_details(item_ids, self._served.state.recommender)

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
            raise ApiError(503, STORE_UNAVAILABLE, str(error), retry_after_s=1) from error

    def refresh_facts(self) -> bool:
        """Take item facts and features from the store if it holds another generation; those in use fill the gaps.

        Returns:
            Whether new ones are in use.
        """
        freshness = self.store.freshness()
        if freshness is not None and freshness.newest_event_time is not None:
            self.metrics.newest_event.set(freshness.newest_event_time / 1000)
        if freshness is None or freshness.generation == self._facts_generation:
            return False
        state = self._served.state
        ids = state.recommender.catalogue.item_ids.to_pylist()
        facts: list[ItemFacts | None] = []
        for start in range(0, len(ids), FACTS_PER_READ):
            facts += self.store.items(ids[start : start + FACTS_PER_READ])
        now, features = self._now(), self.store.item_features(ids)
        self._items_read = None if features is None else ItemsRead(columns=features, time=now)
        self._use(state.with_fresh_items(facts, features))
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
        self.metrics.delta_refused.labels(self.arm).set(error is not None)
        if error is not None:
            _log.error("catalogue delta %d is served on: %s", newer.delta, error)
        return newer is not state

    @property
    def policy(self) -> str:
        """Name of the stochastic last stage: its parameters."""
        return self._served.maker.policy.name

    def _use(self, state: CatalogueState) -> None:
        """Serve with this state from the next request on."""
        maker = state.recommender
        whole = maker if self._split is None else self._split.around(maker)
        popular_only = Recommender(maker.catalogue, [maker.retrievers[POPULAR]], maker.config, maker.facts)
        self._served = Served(
            state=state, maker=self._guards.around(whole), popular_only=popular_only, items_read=self._items_read
        )
        self.metrics.delta.labels(self.arm).set(state.delta)

    def _features_of(self, item_ids: pa.Array) -> Columns | None:
        """Return the item features of new items by now, where the ranker has those of the others."""
        if self._items_read is None:
            return None
        try:
            return self.store.item_features(item_ids.to_pylist()) or items_without_events(len(item_ids))
        except StoreUnavailableError:
            return items_without_events(len(item_ids))

    def _now(self) -> int:
        return int(self._clock() * 1000)
