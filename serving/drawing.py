"""Drawing pages: from lists that go on as they were ranked, or from lists that are ranked now.

Legend: `B` pages made together.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from features.store.base import KnownUsers
from kernels.jagged import row_numbers
from models.recommend.deltas import CatalogueState
from models.recommend.fusion import Fused, stacked
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.known import request_of_users
from models.recommend.ranked import Ranked
from models.recommend.recommender import Page, Recommender, request_seeds
from models.recommend.rules import Filters
from serving.cursors import Asked, Continuation
from serving.feature_log import ItemsRead
from serving.metrics import ServiceMetrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """What answers are made with, changed as one: a request that has begun ends with what it began with.

    Attributes:
        state: The release with its deltas.
        maker: Its page maker, parts guarded.
        popular_only: A page maker that cannot fail for the sake of a model.
        items_read: Features of items as the page maker has them; None while none were read from the store.
    """

    state: CatalogueState
    maker: Recommender
    popular_only: Recommender
    items_read: ItemsRead | None = None

    @property
    def release(self) -> str:
        """Id of the release."""
        return self.state.release.manifest.release_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A page to be made: the first of a list, or what a cursor stands for."""

    asked: Asked
    request_id: str
    cursor: str | None = None
    before: Continuation | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """What earlier pages of the list have shown."""
        return () if self.before is None else self.before.shown

    @property
    def filters(self) -> Filters | None:
        """What every item must fulfil."""
        return None if self.asked.filters is None else Filters(**self.asked.filters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """A page, and what the list it was drawn from still holds; None where that is to be ranked anew."""

    page: Page
    rest: Fused | None
    complete: bool


def batch_of(maker: Recommender, plans: list[Plan], users: KnownUsers, now: int) -> RequestBatch:
    """Return the plans as requests that exclude what their lists have shown."""
    times_B = np.full(len(plans), now, dtype=np.int64)
    batch = request_of_users(users, maker.catalogue, times_B, [plan.asked.context for plan in plans])
    shown = [item for plan in plans for item in plan.shown]
    if not shown:
        return batch
    rows = row_numbers(np.array([len(plan.shown) for plan in plans]))
    numbers = maker.catalogue.numbers(shown)
    known = numbers != NO_ITEM
    return batch.excluding(rows[known], numbers[known])


def draw(
    served: Served,
    batch: RequestBatch,
    plans: list[Plan],
    on: list[bool],
    reason: str | None,
    metrics: ServiceMetrics,
) -> list[Drawn]:
    """Draw a page for each plan.

    Args:
        served: What to draw with.
        batch: The plans as requests.
        plans: `B` pages.
        on: Whether each one's list goes on; else it is ranked now.
        reason: Why the popular list is to stand in for all models, None where it is not.
        metrics: Take the seconds of the stages.
    """
    candidates, policy = (metrics.stage_seconds.labels(stage) for stage in ("candidates", "policy"))
    drawn: dict[int, Drawn] = {}
    anew = [row for row, goes_on in enumerate(on) if not goes_on]
    if anew:
        maker = served.maker if reason is None else served.popular_only
        slots = max(plans[row].asked.page_size for row in anew)
        with candidates.time():
            ranked = maker.ranked(batch.take(np.array(anew)), slots, [plans[row].filters for row in anew])
        full_b = (ranked.fused.items_BF != NO_ITEM).all(axis=1)
        complete = [reason is None and not full for full in full_b.tolist()]
        with policy.time():
            drawn |= _draw_rows(maker, ranked, plans, anew, complete, keep=reason is None)
    for rows, lists in _by_sources(plans, on):
        with candidates.time():
            ranked = served.maker.ranked_before(
                batch.take(np.array(rows)),
                stacked([before.ranking for before in lists if before.ranking is not None]),
                [before.fallback for before in lists],
                [plans[row].filters for row in rows],
            )
        with policy.time():
            drawn |= _draw_rows(served.maker, ranked, plans, rows, [before.complete for before in lists], keep=True)
    return [drawn[row] for row in range(len(plans))]


def goes_on(served: Served, plan: Plan, mark: str | None) -> bool:
    """Return whether a list is as good as on its last page: same release, same history, enough candidates left.

    Args:
        served: What is served now.
        plan: A page.
        mark: The user's history now, None where it is not known.
    """
    before = plan.before
    if (
        before is None
        or before.ranking is None
        or (before.release, before.delta) != (served.release, served.state.delta)
    ):
        return False
    enough = before.complete or before.ranking.items_BF.shape[1] >= plan.asked.page_size
    return enough and mark in (None, before.mark)


def _by_sources(plans: list[Plan], on: list[bool]) -> list[tuple[list[int], list[Continuation]]]:
    """Return the plans whose lists go on, rows and lists, those of the same sources together."""
    together: dict[tuple[str, ...], tuple[list[int], list[Continuation]]] = {}
    for row, (plan, goes_on) in enumerate(zip(plans, on, strict=True)):
        if goes_on and plan.before is not None and plan.before.ranking is not None:
            rows, lists = together.setdefault(plan.before.ranking.sources, ([], []))
            rows.append(row)
            lists.append(plan.before)
    return list(together.values())


def _draw_rows(
    maker: Recommender, ranked: Ranked, plans: list[Plan], rows: list[int], complete: list[bool], *, keep: bool
) -> dict[int, Drawn]:
    """Draw the pages of the plans in these rows; `keep` what is left of their lists for the next ones."""
    slots = max(plans[row].asked.page_size for row in rows)
    seeds_B = request_seeds([plans[row].request_id for row in rows])
    longest = maker.drawn(ranked, slots, seeds_B, [plans[row].shown for row in rows])
    pages = [page.first(plans[row].asked.page_size) for row, page in zip(rows, longest, strict=True)]
    numbers = maker.catalogue.numbers([item for page in pages for item in page.items])
    taken = np.split(numbers, np.cumsum([len(page.items) for page in pages])[:-1])
    return {
        row: Drawn(
            page=pages[place],
            rest=ranked.fused.row(place, taken[place]) if keep else None,
            complete=complete[place],
        )
        for place, row in enumerate(rows)
    }
