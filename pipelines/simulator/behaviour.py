"""How people answer a page: the one definition of the true probabilities, used by the simulation and by the oracle.

    examine    = (position + 1) ** -bias(device)
    click      = sigmoid(base + match + need + quality - price + brand - fatigue), if examined
    cart       = sigmoid(... + match - price), if clicked
    purchase   = sigmoid(... + quality + evening), if in the cart

Positions of a page are answered independently of each other. Legend: `R` requests, `P` positions, `M` earlier pages.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.simulator.words import HOUR_BUCKETS
from pipelines.simulator.world import Doubles, Ints, World, day_of, part_of_day

NO_ITEM = -1
NO_CLICK = -1
MEMORY = 3
"""An item shown on this many last pages tires the user."""

EXAMINATION_BIAS = np.array([0.4, 0.6])
"""Exponent of the position bias by device: a phone shows less at once."""

CLICK_BASE, CLICK_MATCH, CLICK_NEED, CLICK_QUALITY = -4.6, 5.5, 3.0, 0.35
CLICK_PRICE, CLICK_BRAND, CLICK_FATIGUE = 0.35, 0.7, 0.9
CART_BASE, CART_MATCH, CART_PRICE = -1.2, 1.0, 0.3
PURCHASE_BASE, PURCHASE_QUALITY, PURCHASE_EVENING = -0.5, 0.3, 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Who looks at a page, when, and in which secret state.

    Attributes:
        users_R: User numbers.
        times_R: Milliseconds since the first day's midnight.
        needs_R: Sub-category wanted now.
        recent_RMP: Items of the last `M` pages shown to the user, `NO_ITEM` where there was none.
    """

    users_R: Ints
    times_R: Ints
    needs_R: Ints
    recent_RMP: Ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Doubles `[R, P]`, each given that the step before it happened; zero where there is no item."""

    examine: Doubles
    click: Doubles
    cart: Doubles
    purchase: Doubles


def answer_probabilities(world: World, moments: Moments, items_RP: Ints) -> Answers:
    """Return how likely each item of each page is examined, clicked, put in the cart and bought.

    Args:
        world: The marketplace.
        moments: `R` users at their times.
        items_RP: Item numbers by position, `NO_ITEM` after a shorter page's end.
    """
    items, users = world.items, world.users
    person = moments.users_R
    part_R = part_of_day(moments.times_R)
    position_P = np.arange(items_RP.shape[1])
    examine = (position_P + 1.0) ** -EXAMINATION_BIAS[users.device_UT[person, part_R]][:, None]
    taste_RD = users.taste(person, day_of(moments.times_R))
    match = np.einsum("rpd,rd->rp", items.vector_ND[items_RP], taste_RD).astype(np.float64)
    price = (users.sensitivity_U[person][:, None] * items.price_z_N[items_RP]).astype(np.float64)
    brand = (items.brand_N[items_RP][:, :, None] == users.brands_UL[person][:, None, :]).any(axis=2)
    shown_before = (items_RP[:, :, None, None] == moments.recent_RMP[:, None]).sum(axis=(2, 3))
    quality = items.quality_N[items_RP].astype(np.float64)
    click = (
        CLICK_BASE
        + CLICK_MATCH * match
        + CLICK_NEED * (items.leaf_N[items_RP] == moments.needs_R[:, None])
        + CLICK_QUALITY * quality
        - CLICK_PRICE * price
        + CLICK_BRAND * brand
        - CLICK_FATIGUE * shown_before
    )
    evening_R = part_R == HOUR_BUCKETS.index("evening")
    purchase = PURCHASE_BASE + PURCHASE_QUALITY * quality + PURCHASE_EVENING * evening_R[:, None]
    return Answers(
        examine=np.where(items_RP == NO_ITEM, 0.0, examine),
        click=_sigmoid(click),
        cart=_sigmoid(CART_BASE + CART_MATCH * match - CART_PRICE * price),
        purchase=_sigmoid(purchase),
    )


def draw_answers(answers: Answers, rng: np.random.Generator) -> Ints:
    """Draw how far each shown item got `[R, P]`: 0 shown, 1 clicked, 2 in the cart, 3 bought."""
    steps = np.stack([answers.examine * answers.click, answers.cart, answers.purchase])
    return np.cumprod(rng.random(steps.shape) < steps, axis=0).sum(axis=0).astype(np.int64)


def answered_leaves(world: World, items_RP: Ints, stages_RP: Ints) -> Ints:
    """Return the sub-category of each page's furthest-going item, `NO_CLICK` where nothing was clicked."""
    rows, furthest_R = np.arange(len(items_RP)), stages_RP.argmax(axis=1)
    leaf_R = world.items.leaf_N[items_RP[rows, furthest_R]]
    return np.where(stages_RP[rows, furthest_R] > 0, leaf_R, NO_CLICK)


def next_needs(world: World, needs_R: Ints, answered_R: Ints, rng: np.random.Generator) -> Ints:
    """Return the needs after a page: an answered need moves on along the chain, an unanswered one stays."""
    moved_R = draw_rows(world.tree.chain_SS, np.maximum(answered_R, 0), rng.random((len(needs_R), 1)))[:, 0]
    return np.where(answered_R == NO_CLICK, needs_R, moved_R)


def draw_rows(table_SK: Doubles, rows_R: Ints, uniforms_RC: Doubles) -> Ints:
    """Draw `C` columns per request from the probability rows of a table.

    Args:
        table_SK: `S` distributions over `K` columns, as weights that need not sum to one.
        rows_R: The distribution of each request.
        uniforms_RC: Uniform numbers in [0, 1).

    Returns:
        Columns `[R, C]`.
    """
    # Row s of the cumulated table lies between s and s + 1, so that one sorted search serves all rows.
    cumulated = np.cumsum(table_SK, axis=1)
    cumulated /= cumulated[:, -1:]
    flat = (cumulated + np.arange(len(table_SK))[:, None]).ravel()
    found = np.searchsorted(flat, uniforms_RC + rows_R[:, None], side="right")
    columns: Ints = np.clip(found - rows_R[:, None] * table_SK.shape[1], 0, table_SK.shape[1] - 1)
    return columns


def _sigmoid(logits: Doubles) -> Doubles:
    return 1.0 / (1.0 + np.exp(-logits))
