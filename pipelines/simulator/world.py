"""What exists in the marketplace: a category tree, items and people with their secret vectors.

Legend: `S` sub-categories, `H` themes, `N` items, `U` users, `R` requests, `D` width of the secret taste space.
Everything is drawn from named streams, one for the first items, one for each later day's: the number of days or users
changes nothing that was drawn for something else.
"""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import numpy.typing as npt

from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.words import BRANDS, HOUR_BUCKETS, THEMES, TREE

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY_MS = 86_400_000
WIDTH = 16
LEAVES = sum(len(leaves) for leaves in TREE.values())
LEAF_DEPARTMENT: Ints = np.repeat(np.arange(len(TREE)), [len(leaves) for leaves in TREE.values()])
LOYALTIES = 3
"""Favourite brands per user."""

NEED_STAYS, NEED_MOVES, NEED_ANYTHING = 0.15, (0.55, 0.2, 0.05), 0.05
"""Where a need goes after it was answered: it stays, moves to one of three follow-up needs, or to any sub-category."""


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random stream of a name; streams of different names are independent.

    Example:
        >>> bool(stream(1, "items", 3).random() == stream(1, "items", 3).random())
        True
    """
    key = tuple(zlib.crc32(str(name).encode()) for name in names)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """The secret geometry of categories, themes and needs.

    Attributes:
        leaf_SD, theme_HD: Unit vectors; sub-categories of one department lie close together.
        price_S: Mean log price of a sub-category.
        chain_SS: Row s: probabilities of the next need after a click in sub-category s.
    """

    leaf_SD: Floats
    theme_HD: Floats
    price_S: Floats
    chain_SS: Doubles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Items:
    """All items that exist until the last day, in order of arrival.

    Attributes:
        leaf_N, theme_N, brand_N: What the item is; numbers into `words`.
        vector_ND: Secret unit vector.
        quality_N: Secret quality, about standard normal.
        popularity_N: Heavy-tailed weight (Pareto), by which the shop's popular shelf draws.
        price_N, price_z_N: Price, and its standardised distance from the sub-category's mean log price.
        first_day_N, gone_day_N: Available on days `first_day <= day < gone_day`; 0 is the first simulated day.
        wording_NW: Random numbers from which the texts are composed.
    """

    leaf_N: Ints
    theme_N: Ints
    brand_N: Ints
    vector_ND: Floats
    quality_N: Floats
    popularity_N: Floats
    price_N: Doubles
    price_z_N: Floats
    first_day_N: Ints
    gone_day_N: Ints
    wording_NW: Ints

    def __len__(self) -> int:
        return len(self.leaf_N)

    def live(self, day: int) -> Ints:
        """Return the numbers of the items available on a day."""
        return np.flatnonzero((self.first_day_N <= day) & (day < self.gone_day_N))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Users:
    """All people.

    Attributes:
        from_UD, to_UD: Orthogonal unit vectors; the taste turns from the first towards the second.
        turn_U: Radians per day of that turn.
        first_need_U: Sub-category wanted at the first visit.
        sensitivity_U: Price sensitivity, positive, about 1.
        brands_UL: Favourite brands.
        device_UT: Device used in each part of the day.
        activity_U: Mean visits per day.
        rhythm_U: Which daily rhythm the user follows.
        join_day_U: First day with visits.
        noise_UA: Standard normal noise of the observable attributes.
    """

    from_UD: Floats
    to_UD: Floats
    turn_U: Floats
    first_need_U: Ints
    sensitivity_U: Floats
    brands_UL: Ints
    device_UT: Ints
    activity_U: Doubles
    rhythm_U: Ints
    join_day_U: Ints
    noise_UA: Floats

    def __len__(self) -> int:
        return len(self.turn_U)

    def taste(self, users_R: Ints, days_R: Ints) -> Floats:
        """Return the unit taste vectors `[R, D]` of users on days: `cos(turn day) from + sin(turn day) to`."""
        angle_R = (self.turn_U[users_R] * days_R).astype(np.float32)[:, None]
        taste_RD = np.cos(angle_R) * self.from_UD[users_R] + np.sin(angle_R) * self.to_UD[users_R]
        return taste_RD.astype(np.float32, copy=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Tree, items and users of one configuration and seed."""

    config: SimulateConfig
    tree: Tree
    items: Items
    users: Users


def day_of(times: Ints) -> Ints:
    """Return the days, 0 the first, of milliseconds since the first day's midnight."""
    return times // DAY_MS


def part_of_day(times: Ints) -> Ints:
    """Return the parts of the day, numbers into `HOUR_BUCKETS`, of milliseconds since the first day's midnight."""
    return times % DAY_MS * len(HOUR_BUCKETS) // DAY_MS


def build_world(config: SimulateConfig, seed: int) -> World:
    """Draw the marketplace."""
    tree = _tree(seed)
    sizes = [config.items] + [config.new_items_per_day] * (config.days - 1)
    batches = [_items(stream(seed, "items", day), size, day, tree) for day, size in enumerate(sizes)]
    names = [field.name for field in dataclasses.fields(Items)]
    items = Items(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names})
    return World(config=config, tree=tree, items=items, users=_users(stream(seed, "users"), config, tree))


def _unit(vectors: Doubles) -> Floats:
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def _tree(seed: int) -> Tree:
    rng = stream(seed, "tree")
    department = _unit(rng.standard_normal((len(TREE), WIDTH)))
    leaf = _unit(department[LEAF_DEPARTMENT] + 0.8 * _unit(rng.standard_normal((LEAVES, WIDTH))))
    chain_SS = np.full((LEAVES, LEAVES), NEED_ANYTHING / LEAVES)
    chain_SS[np.arange(LEAVES), np.arange(LEAVES)] += NEED_STAYS
    for share in NEED_MOVES:
        # One cycle through all sub-categories per share: no need is a dead end and none attracts all others.
        cycle = rng.permutation(LEAVES)
        chain_SS[cycle, np.roll(cycle, 1)] += share
    return Tree(
        leaf_SD=leaf,
        theme_HD=_unit(rng.standard_normal((len(THEMES), WIDTH))),
        price_S=rng.normal(3.0, 0.7, LEAVES).astype(np.float32),
        chain_SS=chain_SS,
    )


def _items(rng: np.random.Generator, size: int, day: int, tree: Tree) -> Items:
    leaf = rng.integers(LEAVES, size=size)
    theme = rng.integers(len(THEMES), size=size)
    noise = _unit(rng.standard_normal((size, WIDTH)))
    popularity = np.minimum((1 - rng.random(size)) ** -0.55, 20.0)
    price_z = rng.standard_normal(size)
    price: Doubles = np.exp(tree.price_S[leaf] + 0.4 * price_z)
    first_day = np.full(size, day) if day else -rng.integers(1, 181, size)
    return Items(
        leaf_N=leaf,
        theme_N=theme,
        brand_N=rng.integers(len(BRANDS), size=size),
        vector_ND=_unit(tree.leaf_SD[leaf] + 1.0 * tree.theme_HD[theme] + 0.3 * noise),
        quality_N=(0.9 * rng.standard_normal(size) + 0.4 * (np.log(popularity) - 0.55) / 0.55).astype(np.float32),
        popularity_N=popularity.astype(np.float32),
        price_N=price.round(2),
        price_z_N=price_z.astype(np.float32),
        first_day_N=first_day,
        gone_day_N=day + 1 + rng.exponential(150.0, size).astype(np.int64),
        wording_NW=rng.integers(1 << 30, size=(size, 5)),
    )


def _users(rng: np.random.Generator, config: SimulateConfig, tree: Tree) -> Users:
    size = config.users
    leaves = rng.integers(LEAVES, size=(size, 2))
    themes = rng.integers(len(THEMES), size=(size, 2))
    taste = _unit(
        tree.leaf_SD[leaves[:, 0]]
        + 0.6 * tree.leaf_SD[leaves[:, 1]]
        + 1.2 * tree.theme_HD[themes[:, 0]]
        + 0.5 * tree.theme_HD[themes[:, 1]]
        + 0.2 * rng.standard_normal((size, WIDTH))
    )
    other = rng.standard_normal((size, WIDTH))
    other -= (other * taste).sum(axis=1, keepdims=True) * taste
    late = rng.random(size) < 0.15
    return Users(
        from_UD=taste,
        to_UD=_unit(other),
        turn_U=np.abs(rng.normal(0.0, 0.04, size)).astype(np.float32),
        first_need_U=leaves[:, 0],
        sensitivity_U=rng.lognormal(0.0, 0.5, size).astype(np.float32),
        brands_UL=rng.integers(len(BRANDS), size=(size, LOYALTIES)),
        device_UT=(rng.random((size, len(HOUR_BUCKETS))) < 0.6).astype(np.int64),
        activity_U=rng.gamma(2.0, config.visits_per_day / 2.0, size),
        rhythm_U=rng.integers(3, size=size),
        join_day_U=np.where(late, 1 + rng.exponential(6.0, size).astype(np.int64), 0),
        noise_UA=rng.standard_normal((size, 2)).astype(np.float32),
    )
