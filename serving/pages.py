"""Requests -> pages: cursors and users are read, candidates ranked, pages drawn, what comes next is kept.

Legend: `B` requests answered together.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from features.store.base import KnownUsers, OnlineStore, StoreUnavailableError
from models.recommend.interface import RequestBatch
from models.recommend.known import request_of_users
from models.recommend.recommender import Page
from models.recommend.rules import Filters
from serving.api import ApiError, RecommendedItem, RecommendRequest, RecommendResponse
from serving.cursors import (
    MOST_SHOWN,
    Asked,
    Continuation,
    Cursors,
    CursorsRefusedError,
    MadePage,
    history_marks,
    new_token,
)
from serving.drawing import Drawn, Plan, Served, batch_of, draw, goes_on
from serving.fallbacks import STORE_UNAVAILABLE, Rest
from serving.feature_log import FeatureLog
from serving.metrics import ServiceMetrics
from serving.page_log import page_row
from serving.validity import invalid_items

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, and what of it is to be logged once it is given.

    Attributes:
        page: The answer.
        row: Columns of `features.schemas.PAGES`; None where nothing is shown, or somebody else has logged it.
    """

    page: RecommendResponse
    row: Mapping[str, object] | None


class Pages:
    """Answers requests with what it is given to serve; safe to call from several threads.

    Args:
        store: What is known of users.
        cursors: Keeps lists between pages; None gives pages without a next one.
        log: Takes rows of the page log.
        feature_log: Takes what was read for pages; None logs none.
        metrics: Counts.
        arm: Named in answers and log.
        history_length: Newest events read per user.
        store_rest_s: After a read that the store did not answer, pages are made without it for so long: waiting for a
            store that hangs, every request again, would hold up everybody.
        clock: Returns Unix seconds.
        id_factory: Names each request; its exploration follows from the name.
    """

    def __init__(
        self,
        store: OnlineStore,
        cursors: Cursors | None,
        log: Callable[[Mapping[str, object]], None],
        metrics: ServiceMetrics,
        *,
        feature_log: FeatureLog | None = None,
        arm: str,
        history_length: int,
        store_rest_s: float,
        clock: Callable[[], float],
        id_factory: Callable[[], str],
    ) -> None:
        self._store, self._cursors, self._log, self._metrics = store, cursors, log, metrics
        self._feature_log, self._arm, self._history_length = feature_log, arm, history_length
        self._store_rests, self._cursors_rest = Rest(store_rest_s), Rest(store_rest_s)
        self._clock, self._id_factory = clock, id_factory

    def answer(
        self, served: Served, requests: Sequence[RecommendRequest], reason: str | None = None
    ) -> list[Answer | ApiError]:
        """Answer checked requests; an error stands in place of the answer to a cursor that cannot be used.

        Args:
            served: What to answer with.
            requests: `B` requests.
            reason: Why the popular list is to stand in for all models, None where it is not; lists that are ranked
                already are continued in any case.
        """
        begun = self._begun(served, requests)
        self._check_repeated(served, [answer.page for answer in begun if isinstance(answer, Answer)])
        made = iter(self._made(served, [plan for plan in begun if isinstance(plan, Plan)], reason))
        return [next(made) if isinstance(plan, Plan) else plan for plan in begun]

    def _begun(self, served: Served, requests: Sequence[RecommendRequest]) -> list[Plan | Answer | ApiError]:
        found = iter(self._cursors_of([request for request in requests if request.cursor is not None]))
        begun: list[Plan | Answer | ApiError] = []
        for request in requests:
            if request.cursor is None:
                size = request.page_size or served.maker.config.page_size
                begun.append(Plan(asked=Asked.of(request, size), request_id=self._id_factory()))
                continue
            stands_for = next(found)
            if isinstance(stands_for, Continuation):
                plan = Plan(
                    asked=stands_for.asked, request_id=stands_for.request_id, cursor=request.cursor, before=stands_for
                )
                begun.append(plan)
            elif isinstance(stands_for, ApiError):
                self._metrics.cursors.labels("refused").inc()
                begun.append(stands_for)
            else:
                self._metrics.cursors.labels("repeated").inc()
                begun.append(Answer(page=stands_for, row=None))
        return begun

    def _cursors_of(self, requests: list[RecommendRequest]) -> Sequence[Continuation | RecommendResponse | ApiError]:
        if not requests:
            return []
        if self._cursors is not None and not self._store_rests:
            try:
                with self._metrics.stage_seconds.labels("cursors").time():
                    return self._cursors.read(requests)
            except StoreUnavailableError:
                self._store_failed(self._store_rests)
        detail = "what the cursor stands for cannot be read; ask again, or leave the cursor out to begin a new list"
        return [ApiError(503, STORE_UNAVAILABLE, detail, retry_after_s=1) for _ in requests]

    def _made(self, served: Served, plans: list[Plan], reason: str | None) -> list[Answer]:
        if not plans:
            return []
        user_ids = [plan.asked.user_id for plan in plans]
        users = self._users(user_ids)
        if users is None:
            reason = STORE_UNAVAILABLE
        known = KnownUsers.strangers(user_ids) if users is None else users
        marks = history_marks(known.histories)
        now = int(self._clock() * 1000)
        batch = batch_of(served.maker, plans, known, now)
        on = [goes_on(served, plan, None if users is None else mark) for plan, mark in zip(plans, marks, strict=True)]
        drawn = draw(served, batch, plans, on, reason, self._metrics)
        if users is not None:
            self._log_features(served, plans, users, drawn, now)
        made = []
        for plan, one, continued, mark in zip(plans, drawn, on, marks, strict=True):
            fallback = one.page.fallback if continued or reason is None else reason
            mark = plan.before.mark if continued and plan.before is not None else mark
            then = self._then(served, plan, one, fallback, mark)
            made.append(
                MadePage(
                    asked=plan.asked,
                    cursor=plan.cursor,
                    page=self._page(served, plan, one.page, fallback, then),
                    then=then,
                )
            )
            if plan.cursor is not None:
                self._metrics.cursors.labels("continued" if continued else "refreshed").inc()
        kept = self._kept(made)
        self._check(served, batch, [plan.filters for plan in plans], kept)
        return [self._answer(served, *row, now) for row in zip(made, kept, drawn, strict=True)]

    def _log_features(self, served: Served, plans: list[Plan], users: KnownUsers, drawn: list[Drawn], now: int) -> None:
        if self._feature_log is not None:
            ids, pages = [plan.request_id for plan in plans], [one.page.items for one in drawn]
            self._feature_log.add(ids, users, pages, now, served.maker.catalogue, served.items_read)

    def _users(self, user_ids: list[str]) -> KnownUsers | None:
        """Read what is known of users; None while the store does not answer."""
        if self._store_rests:
            return None
        try:
            with self._metrics.store_seconds.time(), self._metrics.stage_seconds.labels("store").time():
                users = self._store.users(user_ids, self._history_length)
        except StoreUnavailableError:
            self._store_failed(self._store_rests)
            return None
        self._metrics.store_corrupted.set(self._store.corrupted)
        return users

    def _store_failed(self, rest: Rest) -> None:
        _log.exception("pages are made without the store, or without next pages")
        self._metrics.store_failures.inc()
        rest.begin()

    def _then(self, served: Served, plan: Plan, drawn: Drawn, fallback: str | None, mark: str) -> Continuation | None:
        """Return what the next page is made from; None where there is none."""
        shown = (*plan.shown, *drawn.page.items)
        left = drawn.rest is None or drawn.rest.items_BF.shape[1] > 0 or not drawn.complete
        if not drawn.page.items or not left or len(shown) >= MOST_SHOWN or self._cursors is None:
            return None
        if self._store_rests or self._cursors_rest:
            return None
        return Continuation(
            asked=plan.asked,
            request_id=self._id_factory(),
            release=served.release,
            delta=served.state.delta,
            mark=mark,
            fallback=fallback,
            shown=shown,
            ranking=drawn.rest,
            complete=drawn.complete,
        )

    def _page(
        self, served: Served, plan: Plan, page: Page, fallback: str | None, then: Continuation | None
    ) -> RecommendResponse:
        rows = zip(page.items, page.scores, page.sources, page.parts, strict=True)
        return RecommendResponse(
            request_id=plan.request_id,
            items=[
                RecommendedItem(item_id=item, score=score, source=source, parts=parts)
                for item, score, source, parts in rows
            ],
            next_cursor=None if then is None else new_token(),
            release=served.release,
            delta=served.state.delta,
            policy=served.maker.policy.name,
            arm=self._arm,
            fallback=fallback,
            reason=page.reason,
        )

    def _kept(self, made: list[MadePage]) -> list[RecommendResponse]:
        """Keep what must be kept and return the pages to answer; where that fails, pages are the last of their lists.

        A Redis on a full disk takes nothing, and answers what it holds: users are known on. One that does not answer is
        left alone: the next pages would wait for it once more, and be late.
        """
        to_keep = any(page.then is not None or page.cursor is not None for page in made)
        if self._cursors is None or self._cursors_rest or not to_keep:
            return [page.page for page in made]
        try:
            with self._metrics.stage_seconds.labels("cursors").time():
                return self._cursors.keep(made)
        except StoreUnavailableError as error:
            self._store_failed(self._cursors_rest)
            if not isinstance(error, CursorsRefusedError):
                self._store_rests.begin()
            return [page.page.model_copy(update={"next_cursor": None}) for page in made]

    def _check(
        self,
        served: Served,
        batch: RequestBatch,
        filters: Sequence[Filters | None],
        pages: Sequence[RecommendResponse],
    ) -> None:
        """Count what is served, and what of it should not be."""
        ids = [[item.item_id for item in page.items] for page in pages]
        self._metrics.served_items.inc(sum(map(len, ids)))
        for reason, count in invalid_items(served.maker, batch, filters, ids).items():
            self._metrics.invalid_items.labels(reason).inc(count)

    def _check_repeated(self, served: Served, pages: Sequence[RecommendResponse]) -> None:
        """Check answers that are given again: the catalogue may have changed, what was seen meanwhile is no mistake."""
        if pages:
            nobody = KnownUsers.strangers([page.request_id for page in pages])
            times_B = np.full(len(pages), int(self._clock() * 1000), dtype=np.int64)
            batch = request_of_users(nobody, served.maker.catalogue, times_B)
            self._check(served, batch, [None] * len(pages), pages)

    def _answer(self, served: Served, made: MadePage, page: RecommendResponse, drawn: Drawn, now: int) -> Answer:
        """Return the answer; the page of a cursor is logged here, as it is the answer from now on, whoever hears it."""
        self._metrics.pages.labels(page.fallback or "none").inc()
        if len(page.items) < made.asked.page_size:
            self._metrics.short_pages.labels("some" if page.items else "none").inc()
        first_to_answer = page.next_cursor in (None, made.page.next_cursor)
        if not page.items or not first_to_answer:
            return Answer(page=page, row=None)
        row = page_row(served.state, served.maker.policy, made.asked, made.page, drawn.page, now)
        if made.cursor is None:
            return Answer(page=page, row=row)
        self._log(row)
        return Answer(page=page, row=None)
