"""A marketplace small enough that every policy's true value is a sum, not an estimate.

Persons, their candidates, the scores of the logging policy and how they answer are the simulated marketplace's; what is
reduced is the number of candidates and slots, so that all pages can be listed with their probabilities under
`models.recommend.policy.Policy`. A replicate is a log: users, several pages each, drawn from those tables. Users differ
in how likely they click at all, and who comes often sees other pages than who comes rarely: users are clusters.
Legend: `T` persons, `K` candidates, `P` slots, `S` all pages (ordered draws of P of K), `R` logged pages, `U` users.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from kernels.hashing import hash_integers
from models.recommend.policy import Policy
from pipelines.replay.rounds import Bools, Chances, Floats, Ints, Rounds, Target
from pipelines.simulator.behaviour import MEMORY, NO_CLICK, NO_ITEM, Moments, answer_probabilities
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.policy import Shelf, draw_candidates, estimate_taste, score_candidates
from pipelines.simulator.world import DAY_MS, build_world, stream

PERSONS, CANDIDATES, SLOTS = 150, 12, 3
PAGES: Ints = np.array(list(itertools.permutations(range(CANDIDATES), SLOTS)))
"""Candidate numbers of all pages, `[S, P]`."""
BEGINNINGS: list[tuple[Ints, Ints]] = []
"""For each slot what may stand before it, `[H, slot]`, and which of these stands there on each page, `[S]`."""
for _slot in range(SLOTS):
    _heads, _which = np.unique(PAGES[:, :_slot], axis=0, return_inverse=True)
    BEGINNINGS.append((_heads, _which.reshape(-1)))
PAIRS: Floats = (PAGES[:, :, None] == np.arange(CANDIDATES)).reshape(len(PAGES), -1).astype(np.float64)
"""Which pairs of slot and item are on each page, `[S, P * K]`."""
FACTORS = (0.5, 1.5)
"""Half of the users click half as often as the mean, half one and a half times as often."""
FOLDS = 5
LOGGING = Policy(epsilon=0.2, temperature=1.5)
SERVING = Policy(epsilon=0.1, temperature=1.2)
"""What drew the log, and what draws the pages of champion and challenger."""
Answers = Literal["own_item", "item_above"]
Model = Literal["wrong", "fitted"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class People:
    """Who asks, what could be shown, and the truth.

    Attributes:
        scores_TK: Of the logging policy.
        leaves_TK: Sub-category of each candidate.
        examined_TP: Chance that a slot is looked at.
        clicked_TK: Chance that a candidate is clicked if it is looked at.
        visits_T: Mean number of pages of a user.
    """

    scores_TK: Floats
    leaves_TK: Ints
    examined_TP: Floats
    clicked_TK: Floats
    visits_T: Floats

    @classmethod
    def of_marketplace(cls, seed: int) -> People:
        """Take persons at noon of the first day, and some of the candidates that they would get."""
        config = SimulateConfig(users=PERSONS, items=400, days=1, candidates=40, page_items=10)
        world = build_world(config, seed)
        users_T = np.arange(PERSONS)
        day_T = np.zeros(PERSONS, dtype=np.int64)
        belief_TD = estimate_taste(world.users.taste(users_T, day_T), stream(seed, "belief"))
        leaf_T = np.full(PERSONS, NO_CLICK)
        shelf = Shelf.of_day(world, 0, stream(seed, "shelf"))
        found_TC, counts_TC = draw_candidates(world, shelf, belief_TD, leaf_T, stream(seed, "candidates"))
        lot_TC = np.where(counts_TC, stream(seed, "reduce").random(found_TC.shape), 2.0)
        items_TK = np.take_along_axis(found_TC, lot_TC.argsort(axis=1)[:, :CANDIDATES], axis=1)
        moments = Moments(
            users_R=users_T,
            times_R=day_T + DAY_MS // 2,
            needs_R=world.users.first_need_U,
            recent_RMP=np.full((PERSONS, MEMORY, SLOTS), NO_ITEM),
        )
        answers = answer_probabilities(world, moments, items_TK)
        return cls(
            scores_TK=score_candidates(world, items_TK, belief_TD, leaf_T, stream(seed, "scores")),
            leaves_TK=world.items.leaf_N[items_TK],
            examined_TP=answers.examine[:, :SLOTS],
            clicked_TK=answers.click,
            visits_T=1 + 4 * world.users.activity_U,
        )

    def rewards(self, answers: Answers) -> Floats:
        """Return the mean reward of each slot of each page, `[T, S, P]`.

        Where answers depend on the item above, an item right below one that is likely to be clicked is clicked less.
        """
        rewards_TSP = self.examined_TP[:, None, :] * self.clicked_TK[:, PAGES]
        if answers == "item_above":
            rewards_TSP[:, :, 1:] *= 1 - 0.9 * self.clicked_TK[:, PAGES[:, :-1]]
        return rewards_TSP / max(FACTORS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """All that a policy does: the probability of every page, and of every item in every slot."""

    people: People
    scores_TK: Floats
    policy: Policy

    @cached_property
    def draws(self) -> list[Floats]:
        """P(item | items before it) of each slot, `[T, H, K]`: one row for each of the `H` beginnings of a page."""
        found = []
        for heads_HP, _ in BEGINNINGS:
            left_HK = ~(heads_HP[:, :, None] == np.arange(CANDIDATES)).any(axis=1)
            scores = np.repeat(self.scores_TK, len(left_HK), axis=0)
            drawn = self.policy.probabilities(scores, np.tile(left_HK, (PERSONS, 1)))
            found.append(drawn.reshape(PERSONS, len(left_HK), CANDIDATES))
        return found

    @cached_property
    def conditional_TSP(self) -> Floats:
        """P(item of the slot | items before it) of each page."""
        slots = zip(self.draws, BEGINNINGS, PAGES.T, strict=True)
        return np.stack([drawn_THK[:, head_S, item_S] for drawn_THK, (_, head_S), item_S in slots], axis=2)

    @cached_property
    def pages_TS(self) -> Floats:
        """P(page)."""
        return np.asarray(self.conditional_TSP.prod(axis=2))

    @cached_property
    def marginal_TPK(self) -> Floats:
        """P(slot holds item)."""
        return np.stack(
            [self.pages_TS @ (PAGES[:, slot, None] == np.arange(CANDIDATES)) for slot in range(SLOTS)], axis=1
        )

    @cached_property
    def cluster_TPK(self) -> Floats:
        """P(slot holds some item of the item's sub-category)."""
        same_TKK = self.people.leaves_TK[:, :, None] == self.people.leaves_TK[:, None, :]
        return np.asarray(self.marginal_TPK @ same_TKK)

    def value(self, rewards_TSP: Floats) -> float:
        """Return the true mean reward of a page: over pages, so that who comes often counts often."""
        share_T = self.people.visits_T / self.people.visits_T.sum()
        return float(np.einsum("t,ts,tsp->", share_T, self.pages_TS, rewards_TSP))

    @cached_property
    def _together_TXX(self) -> Floats:
        """Pseudo-inverse of how often two pairs of slot and item are shown together."""
        together = np.einsum("ts,sx,sy->txy", self.pages_TS, PAIRS, PAIRS, optimize=True)
        return np.linalg.pinv(together, rcond=1e-10, hermitian=True)

    def pseudo_inverse_TS(self, logged: Table) -> Floats:
        """Return the weights of the pseudo-inverse estimator on another policy's pages."""
        pairs_TX = self.marginal_TPK.reshape(PERSONS, -1)
        return np.asarray(np.einsum("tx,txy->ty", pairs_TX, logged._together_TXX) @ PAIRS.T)

    def next_TSP(self, model_TPK: Floats) -> Floats:
        """Return what a model expects of each slot given the items before it, `[T, S, P]`."""
        expected = [
            np.einsum("thk,tk->th", drawn_THK, model_TPK[:, slot])[:, head_S]
            for slot, (drawn_THK, (_, head_S)) in enumerate(zip(self.draws, BEGINNINGS, strict=True))
        ]
        return np.stack(expected, axis=2)


class Scene:
    """A log's world: who logged, and which champion and challenger are compared on it.

    Args:
        logged: Who made the log.
        champion: Policy A.
        challenger: Policy B, of the same people.
        answers: What a click depends on.
        model: `wrong`: a fixed reward model that is off everywhere. `fitted`: rates by slot and place in the order of
            the logged scores, fitted to the other users of each log; it says nothing of items given those above.
    """

    def __init__(
        self,
        logged: Table,
        champion: Table,
        challenger: Table,
        *,
        answers: Answers = "own_item",
        model: Model = "wrong",
    ) -> None:
        self.people, self.model = logged.people, model
        self.logged, self.targets = logged, [champion, challenger]
        self.rewards_TSP = self.people.rewards(answers)
        self.place_TK = np.argsort(np.argsort(-self.people.scores_TK, axis=1), axis=1)
        cumulated = np.cumsum(logged.pages_TS, axis=1)
        self._cdf = (cumulated / cumulated[:, -1:] + np.arange(PERSONS)[:, None]).ravel()

    @cached_property
    def difference(self) -> float:
        """The truth: challenger - champion, per page."""
        champion, challenger = (table.value(self.rewards_TSP) for table in self.targets)
        return challenger - champion

    @cached_property
    def _wrong_TPK(self) -> Floats:
        """Halfway between the truth and the mean, with an error of its own for each item of each person."""
        true_TPK = self.people.examined_TP[:, :, None] * self.people.clicked_TK[:, None, :] / max(FACTORS)
        noise = np.random.default_rng(1).lognormal(0.0, 0.5, (PERSONS, 1, CANDIDATES))
        return (0.5 * true_TPK + 0.5 * true_TPK.mean()) * noise

    @cached_property
    def _wrong(self) -> list[tuple[Floats, Floats]]:
        model = self._wrong_TPK
        return [(np.einsum("tpk,tpk->tp", table.marginal_TPK, model), table.next_TSP(model)) for table in self.targets]

    @cached_property
    def _pseudo_inverse(self) -> list[Floats]:
        return [table.pseudo_inverse_TS(self.logged) for table in self.targets]

    def draw(self, seed: int, pages: int) -> Rounds:
        """Draw a log of about so many pages, a few more rather than fewer."""
        rng = np.random.default_rng(seed)
        users = int(1.03 * pages / self.people.visits_T.mean()) + 50
        person_U = rng.integers(PERSONS, size=users)
        user_R = np.repeat(np.arange(users), 1 + rng.poisson(self.people.visits_T[person_U] - 1))
        person_R, factor_R = person_U[user_R], rng.choice(FACTORS, size=users)[user_R]
        found = np.searchsorted(self._cdf, rng.random(len(user_R)) + person_R, side="right")
        page_R = np.clip(found - person_R * len(PAGES), 0, len(PAGES) - 1)
        chance_RP = factor_R[:, None] * self.rewards_TSP[person_R, page_R]
        rewards_RP = (rng.random(chance_RP.shape) < chance_RP).astype(np.float64)
        model = self._models(user_R, person_R, page_R, rewards_RP)
        conditional = [table.conditional_TSP[person_R, page_R] for table in self.targets]
        targets = [
            Target(
                chances=_chances(table, person_R, page_R),
                expected_RP=expected_RP,
                expected_next_RP=next_RP,
                drawn_RP=_drawn(rng, chance_RP),
                outside_R=np.zeros(len(user_R)),
                pseudo_inverse_R=inverse_TS[person_R, page_R],
            )
            for table, chance_RP, inverse_TS, (expected_RP, next_RP) in zip(
                self.targets, conditional, self._pseudo_inverse, model[1], strict=True
            )
        ]
        return Rounds(
            users_R=hash_integers(user_R, salt=seed),
            times_R=np.zeros(len(user_R), dtype=np.int64),
            there_RP=np.ones(rewards_RP.shape, dtype=bool),
            rewards_RP=rewards_RP,
            logged=_chances(self.logged, person_R, page_R),
            predicted_RP=model[0],
            champion=targets[0],
            challenger=targets[1],
        )

    def _models(
        self, user_R: Ints, person_R: Ints, page_R: Ints, rewards_RP: Floats
    ) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        """Return predictions for what was shown, and per policy for what it would show, without and given the above."""
        slot_P = np.arange(SLOTS)
        if self.model == "wrong":
            shown_RP = self._wrong_TPK[person_R[:, None], slot_P, PAGES[page_R]]
            return shown_RP, [(expected[person_R], following[person_R, page_R]) for expected, following in self._wrong]
        place_RP = self.place_TK[person_R[:, None], PAGES[page_R]]
        fold_R = user_R % FOLDS
        cell_RP = (fold_R[:, None] * SLOTS + slot_P) * CANDIDATES + place_RP
        size = FOLDS * SLOTS * CANDIDATES
        shape = (FOLDS, SLOTS, CANDIDATES)
        clicks, shown = (
            np.bincount(cell_RP.ravel(), weights=weights, minlength=size).reshape(shape)
            for weights in (rewards_RP.ravel(), None)
        )
        mean = rewards_RP.mean()
        rate_FPK = (clicks.sum(axis=0) - clicks + 20 * mean) / (shown.sum(axis=0) - shown + 20)
        rate_FPTK = rate_FPK[:, :, self.place_TK]
        expected = [np.einsum("tpk,fptk->ftp", table.marginal_TPK, rate_FPTK) for table in self.targets]
        following = [np.zeros(rewards_RP.shape)] * 2
        predicted_RP = rate_FPK[fold_R[:, None], slot_P, place_RP]
        return predicted_RP, [(e[fold_R, person_R], f) for e, f in zip(expected, following, strict=True)]


def _chances(table: Table, person_R: Ints, page_R: Ints) -> Chances:
    slot_P, item_RP = np.arange(SLOTS), PAGES[page_R]
    return Chances(
        conditional_RP=table.conditional_TSP[person_R, page_R],
        marginal_RP=table.marginal_TPK[person_R[:, None], slot_P, item_RP],
        cluster_RP=table.cluster_TPK[person_R[:, None], slot_P, item_RP],
    )


def _drawn(rng: np.random.Generator, chance_RP: Floats) -> Bools:
    """A draw given the items before is the logged item with just its conditional chance."""
    drawn: npt.NDArray[np.bool_] = rng.random(chance_RP.shape) < chance_RP
    return drawn
