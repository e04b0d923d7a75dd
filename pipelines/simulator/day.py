"""One simulated day: who visits when, what is shown, how it is answered; state moves on with every page.

All users' first pages of the day are made together, then all second pages, and so on. Legend: `R` requests, `P`
positions of a page, `M` remembered pages, `U` users, `D` width of the taste space.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.simulator.behaviour import (
    MEMORY,
    NO_CLICK,
    NO_ITEM,
    Moments,
    answer_probabilities,
    answered_leaves,
    draw_answers,
    draw_rows,
    next_needs,
)
from pipelines.simulator.policy import (
    Shelf,
    draw_candidates,
    draw_pages,
    estimate_taste,
    score_candidates,
)
from pipelines.simulator.world import DAY_MS, Doubles, Floats, Ints, World, stream

HOUR_MS = 3_600_000
MAX_VISITS, MAX_PAGES = 5, 4
"""Per user and day, and per visit."""

GAP_MS = (100_000, 160_000)
"""Least and greatest time between two pages of a visit; every answer comes within 90 s of its page."""

CLICK_MS, CART_MS, PURCHASE_MS = (1_000, 25_000), (3_000, 20_000), (5_000, 45_000)
"""Least and greatest delay of each step after the step before it."""

RHYTHMS: tuple[tuple[int, ...], ...] = (
    (0, 0, 0, 0, 0, 1, 4, 8, 8, 5, 3, 2, 3, 2, 1, 1, 2, 3, 3, 2, 2, 1, 0, 0),
    (0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 6, 9, 8, 5, 4, 3, 2, 2, 2, 2, 1, 1, 0),
    (2, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 2, 2, 2, 3, 4, 6, 8, 9, 8, 6, 0),
)
"""Weights of the hours of a visit's start. None starts after 23:00, so that no visit crosses midnight."""


@dataclasses.dataclass
class State:
    """What changes from page to page, per user.

    Attributes:
        needs_U: Sub-category wanted now.
        last_leaf_U: Sub-category of the last click, `NO_CLICK` before the first.
        last_time_U: Time of the last page.
        recent_UMP: Items of the last pages, newest first.
    """

    needs_U: Ints
    last_leaf_U: Ints
    last_time_U: Ints
    recent_UMP: Ints

    @classmethod
    def first(cls, world: World) -> State:
        """Return the state before the first day."""
        size = len(world.users)
        return cls(
            needs_U=world.users.first_need_U.copy(),
            last_leaf_U=np.full(size, NO_CLICK),
            last_time_U=np.full(size, -DAY_MS),
            recent_UMP=np.full((size, MEMORY, world.config.page_items), NO_ITEM),
        )

    def move_on(self, moments: Moments, items_RP: Ints, answered_R: Ints, needs_after_R: Ints) -> None:
        """Take note of one page each of some users."""
        users_R = moments.users_R
        self.needs_U[users_R] = needs_after_R
        self.last_leaf_U[users_R] = np.where(answered_R == NO_CLICK, self.last_leaf_U[users_R], answered_R)
        self.last_time_U[users_R] = moments.times_R
        self.recent_UMP[users_R] = np.concatenate([items_RP[:, None], moments.recent_RMP[:, :-1]], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pages:
    """Requests with what was shown and answered.

    Attributes:
        users_R: User numbers.
        times_R: Milliseconds since the first day's midnight.
        visits_R: Number of the visit within the day.
        candidates_RC: Items that could be shown, `NO_ITEM` for repetitions.
        scores_RC: The policy's scores of them.
        items_RP: Items shown.
        propensities_RP: Probability of each, given the candidates and the items before it.
        stages_RP: 0 shown, 1 clicked, 2 in the cart, 3 bought.
        delays_RPE: Milliseconds after the page of click, cart and purchase; meaningful up to the stage.
        needs_after_R: The user's need from this page on.
    """

    users_R: Ints
    times_R: Ints
    visits_R: Ints
    candidates_RC: Ints
    scores_RC: Floats
    items_RP: Ints
    propensities_RP: Doubles
    stages_RP: Ints
    delays_RPE: Ints
    needs_after_R: Ints

    @classmethod
    def concatenate(cls, parts: list[Pages]) -> Pages:
        """Join pages along `R`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def without_candidates(self) -> Pages:
        """Return the same pages without what takes the most memory."""
        return dataclasses.replace(self, candidates_RC=self.candidates_RC[:, :0], scores_RC=self.scores_RC[:, :0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests:
    """The day's requests before anything is shown; `rounds_R` numbers the pages of one user from 0."""

    users_R: Ints
    times_R: Ints
    visits_R: Ints
    rounds_R: Ints


def simulate_day(world: World, state: State, day: int, seed: int) -> Pages:
    """Live through one day and move `state` on.

    Returns:
        The day's pages, in order of round, then user.
    """
    requests = _requests(world, day, stream(seed, "visits", day))
    shelf = Shelf.of_day(world, day, stream(seed, "shelf", day))
    users_U = np.arange(len(world.users))
    belief_UD = estimate_taste(world.users.taste(users_U, np.full(len(users_U), day)), stream(seed, "belief", day))
    policy, people = stream(seed, "policy", day), stream(seed, "people", day)
    rounds, temperature = range(int(requests.rounds_R.max(initial=0)) + 1), world.config.temperature_on(day)
    return Pages.concatenate(
        [_round(world, state, requests, number, shelf, belief_UD, temperature, policy, people) for number in rounds]
    )


def _requests(world: World, day: int, rng: np.random.Generator) -> Requests:
    users, config = world.users, world.config
    visits_U = np.minimum(rng.poisson(users.activity_U), MAX_VISITS) * (users.join_day_U <= day)
    user_V = np.repeat(np.arange(len(users)), visits_U)
    hour_V = draw_rows(np.array(RHYTHMS, dtype=np.float64), users.rhythm_U[user_V], rng.random((len(user_V), 1)))[:, 0]
    start_V = day * DAY_MS + hour_V * HOUR_MS + rng.integers(HOUR_MS, size=len(user_V))
    start_V = start_V[np.lexsort((start_V, user_V))]
    pages_V = np.minimum(rng.geometric(1.0 / config.pages_per_visit, len(user_V)), MAX_PAGES)
    user_R = np.repeat(user_V, pages_V)
    gaps_R = rng.integers(*GAP_MS, size=len(user_R))
    page_R = _number_within(pages_V)
    return Requests(
        users_R=user_R,
        # A visit that would begin during the one before it is moved behind it when its round comes.
        times_R=np.repeat(start_V, pages_V) + page_R * gaps_R,
        visits_R=np.repeat(np.arange(len(user_V)), pages_V),
        rounds_R=_number_within(np.bincount(user_R, minlength=len(users))),
    )


def _number_within(lengths: Ints) -> Ints:
    """Return 0, 1, ... within each of consecutive groups of the given lengths."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _round(
    world: World,
    state: State,
    requests: Requests,
    number: int,
    shelf: Shelf,
    belief_UD: Floats,
    temperature: float,
    policy: np.random.Generator,
    people: np.random.Generator,
) -> Pages:
    chosen = requests.rounds_R == number
    users_R, config = requests.users_R[chosen], world.config
    belief_RD, last_leaf_R = belief_UD[users_R], state.last_leaf_U[users_R]
    candidates_RC, counts_RC = draw_candidates(world, shelf, belief_RD, last_leaf_R, policy)
    scores_RC = score_candidates(world, candidates_RC, belief_RD, last_leaf_R, policy)
    picks_RP, propensities_RP = draw_pages(
        scores_RC,
        counts_RC,
        page_items=config.page_items,
        epsilon=config.epsilon,
        temperature=temperature,
        rng=policy,
    )
    items_RP = np.take_along_axis(candidates_RC, picks_RP, axis=1)
    moments = Moments(
        users_R=users_R,
        times_R=np.maximum(requests.times_R[chosen], state.last_time_U[users_R] + GAP_MS[0]),
        needs_R=state.needs_U[users_R],
        recent_RMP=state.recent_UMP[users_R],
    )
    stages_RP = draw_answers(answer_probabilities(world, moments, items_RP), people)
    answered_R = answered_leaves(world, items_RP, stages_RP)
    needs_after_R = next_needs(world, moments.needs_R, answered_R, people)
    state.move_on(moments, items_RP, answered_R, needs_after_R)
    steps = [people.integers(*bounds, size=items_RP.shape) for bounds in (CLICK_MS, CART_MS, PURCHASE_MS)]
    return Pages(
        users_R=users_R,
        times_R=moments.times_R,
        visits_R=requests.visits_R[chosen],
        candidates_RC=np.where(counts_RC, candidates_RC, NO_ITEM),
        scores_RC=scores_RC.astype(np.float32),
        items_RP=items_RP,
        propensities_RP=propensities_RP,
        stages_RP=stages_RP,
        delays_RPE=np.cumsum(np.stack(steps, axis=2), axis=2),
        needs_after_R=needs_after_R,
    )
