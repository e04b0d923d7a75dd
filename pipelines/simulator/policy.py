"""The logging policy: candidates from four sources, scores, and a page drawn slot by slot with known probabilities.

The policy knows popularity, a noisy estimate of the user's taste, the sub-category of the user's last click and which
sub-categories tend to follow which; it knows neither needs nor quality, price sensitivity or favourite brands.
Legend: `R` requests, `C` candidates, `P` page positions, `S` sub-categories.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pipelines.simulator.behaviour import NO_CLICK, draw_rows
from pipelines.simulator.world import WIDTH, Doubles, Floats, Ints, World

Mask = npt.NDArray[np.bool_]

SCORE_TASTE, SCORE_FOLLOWS, SCORE_POPULARITY, SCORE_NOISE = 4.0, 4.0, 0.4, 0.5
TASTE_ERROR = 0.6
"""Length of the error of the policy's unit taste estimate."""

TASTE_SHARPNESS = 5.0
"""How strongly the taste source prefers sub-categories that fit."""


@dataclasses.dataclass(frozen=True)
class Shelf:
    """The items of one day, arranged for drawing."""

    live: Ints
    """Available items in a random order of the day."""

    popularity: Doubles
    """Cumulated shares of the popularity weights of `live`."""

    by_leaf: Ints
    """Available items sorted by sub-category."""

    leaf_offsets_S: Ints
    """Sub-category s owns entries `offsets[s]:offsets[s + 1]` of `by_leaf`."""

    @classmethod
    def of_day(cls, world: World, day: int, rng: np.random.Generator) -> Shelf:
        """Arrange the items available on a day."""
        live = rng.permutation(world.items.live(day))
        needed = world.config.candidates // 4
        if len(live) < needed:
            raise ValueError(
                f"simulate: expected at least candidates / 4 = {needed} available items on day {day}, got {len(live)}; "
                "raise items or new_items_per_day"
            )
        leaf = world.items.leaf_N[live]
        popularity = np.cumsum(world.items.popularity_N[live], dtype=np.float64)
        counts = np.bincount(leaf, minlength=len(world.tree.leaf_SD))
        return cls(
            live=live,
            popularity=popularity / popularity[-1],
            by_leaf=live[np.argsort(leaf, kind="stable")],
            leaf_offsets_S=np.concatenate([[0], np.cumsum(counts)]),
        )

    def in_leaves(self, leaves_RC: Ints, uniforms_RC: Doubles) -> Ints:
        """Draw one item of each sub-category; any item where the sub-category is empty today."""
        first = self.leaf_offsets_S[leaves_RC]
        counts = self.leaf_offsets_S[leaves_RC + 1] - first
        inside = first + (uniforms_RC * counts).astype(np.int64)
        anything = (uniforms_RC * len(self.by_leaf)).astype(np.int64)
        return self.by_leaf[np.where(counts > 0, inside, anything)]


def estimate_taste(taste_RD: Floats, rng: np.random.Generator) -> Floats:
    """Return what the policy believes of tastes: the truth plus an error of length about `TASTE_ERROR`."""
    error = rng.standard_normal(taste_RD.shape, dtype=np.float32) * np.float32(TASTE_ERROR / np.sqrt(WIDTH))
    return taste_RD + error


def draw_candidates(
    world: World, shelf: Shelf, belief_RD: Floats, last_leaf_R: Ints, rng: np.random.Generator
) -> tuple[Ints, Mask]:
    """Draw the candidates of each request: popular, fitting the believed taste, following the last click, random.

    Args:
        world: The marketplace.
        shelf: The day's available items.
        belief_RD: Believed tastes.
        last_leaf_R: Sub-category of the last click, `NO_CLICK` before the first.
        rng: The source of randomness.

    Returns:
        Item numbers `[R, C]`, and which of them count: all but repetitions within the request.
    """
    rows, quarter = len(last_leaf_R), world.config.candidates // 4
    popular = shelf.live[np.searchsorted(shelf.popularity, rng.random((rows, quarter)), side="right")]
    fit_RS = np.exp(TASTE_SHARPNESS * (belief_RD @ world.tree.leaf_SD.T).astype(np.float64))
    leaves = draw_rows(fit_RS, np.arange(rows), rng.random((rows, quarter)))
    fitting = shelf.in_leaves(leaves, rng.random((rows, quarter)))
    follow = draw_rows(world.tree.chain_SS, np.maximum(last_leaf_R, 0), rng.random((rows, quarter)))
    follow = np.where(last_leaf_R[:, None] == NO_CLICK, leaves, follow)
    following = shelf.in_leaves(follow, rng.random((rows, quarter)))
    # A window of the day's random order holds no item twice: enough distinct candidates to fill a page, always.
    window = rng.integers(len(shelf.live), size=(rows, 1)) + np.arange(quarter)
    candidates_RC = np.concatenate([popular, fitting, following, shelf.live[window % len(shelf.live)]], axis=1)
    candidates_RC.sort(axis=1)
    counts_RC = np.ones(candidates_RC.shape, dtype=np.bool_)
    counts_RC[:, 1:] = candidates_RC[:, 1:] != candidates_RC[:, :-1]
    return candidates_RC, counts_RC


def score_candidates(
    world: World, candidates_RC: Ints, belief_RD: Floats, last_leaf_R: Ints, rng: np.random.Generator
) -> Doubles:
    """Return the policy's scores `[R, C]` from what it knows, with an error of their own."""
    items = world.items
    taste = np.einsum("rcd,rd->rc", items.vector_ND[candidates_RC], belief_RD)
    follows = world.tree.chain_SS[last_leaf_R[:, None], items.leaf_N[candidates_RC]]
    follows = np.where(last_leaf_R[:, None] == NO_CLICK, 0.0, follows)
    popularity = np.log(items.popularity_N[candidates_RC])
    error = rng.standard_normal(candidates_RC.shape)
    return SCORE_TASTE * taste + SCORE_FOLLOWS * follows + SCORE_POPULARITY * popularity + SCORE_NOISE * error


def draw_pages(
    scores_RC: Doubles,
    counts_RC: Mask,
    *,
    page_items: int,
    epsilon: float,
    temperature: float,
    rng: np.random.Generator,
) -> tuple[Ints, Doubles]:
    """Draw pages slot by slot without replacement.

    At each slot candidate c, if still there, has probability
    `(1 - epsilon) * softmax(scores / temperature)[c] + epsilon / (number of candidates still there)`,
    the softmax being over the candidates still there.

    Args:
        scores_RC: Doubles of the candidates.
        counts_RC: Which candidates may be drawn; at least `page_items` per request.
        page_items: Slots of the page, `P`.
        epsilon: Share of uniform draws.
        temperature: Temperature of the softmax.
        rng: The source of randomness.

    Returns:
        Candidate numbers `[R, P]` and their probabilities given the candidates placed before them `[R, P]`.
    """
    rows = np.arange(len(scores_RC))
    logits = np.where(counts_RC, scores_RC / temperature, -np.inf)
    weights_RC = np.exp(logits - logits.max(axis=1, keepdims=True))
    left_RC = counts_RC.astype(np.float64)
    chosen_RP = np.empty((len(rows), page_items), dtype=np.int64)
    propensities_RP = np.empty((len(rows), page_items))
    for slot in range(page_items):
        softmax = weights_RC / weights_RC.sum(axis=1, keepdims=True)
        slot_RC = (1.0 - epsilon) * softmax + epsilon * left_RC / left_RC.sum(axis=1, keepdims=True)
        cumulated = np.cumsum(slot_RC, axis=1)
        cut = rng.random((len(rows), 1)) * cumulated[:, -1:]
        pick = (cumulated <= cut).sum(axis=1)
        chosen_RP[:, slot], propensities_RP[:, slot] = pick, slot_RC[rows, pick]
        weights_RC[rows, pick] = left_RC[rows, pick] = 0.0
    return chosen_RP, propensities_RP
