"""What a policy puts into a slot, whatever stands before it: means over pages that it draws.

P(slot p holds a) = E[P(slot p holds a | the slots before)]: the conditional chances are exact, only the slots before
are drawn (Rao and Blackwell), so slot 0 is exact, too. Pages of few candidates are not drawn but enumerated.
`marginals_of` does it for whoever can say its conditional distributions, in as many passes over all columns as there
are slots; `plain_marginals` for the usual last stage, `(1 - epsilon) softmax + epsilon uniform` without caps and
diversity, in two: an order of the columns drawn once per page (Gumbel's top-k) serves all slots.
Legend: `R` pages, `D` pages drawn for each, `P` slots, `K` columns, `X = R D`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.recommend.policy import NO_CHOICE
from pipelines.replay.choosers import Chooser, Opinion
from pipelines.replay.plain_draws import draw_plain, is_plain, uniform_by_slot
from pipelines.replay.rounds import Bools, Floats, Ints

_TOGETHER = 64
"""Pages looked at together: what is drawn for them fits into the processor's caches."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Marginals:
    """Of one policy on pages.

    Attributes:
        item_RP: P(this slot holds this item).
        cluster_RP: P(this slot holds some item of this item's cluster).
        expected_RP: Mean of a number over what the slot holds; 0 where it stays empty.
    """

    item_RP: Floats
    cluster_RP: Floats
    expected_RP: Floats


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What is asked about pages.

    Attributes:
        choice_RP: Column of the item asked about, `NO_CHOICE` for none.
        clusters_RK: Cluster of each column's item.
        values_RPK: Number whose mean is wanted, by slot and column.
    """

    choice_RP: Ints
    clusters_RK: Ints
    values_RPK: Floats

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Asked:
        """Return what is asked about some of the pages, or pages repeated."""
        return Asked(
            choice_RP=self.choice_RP[rows], clusters_RK=self.clusters_RK[rows], values_RPK=self.values_RPK[rows]
        )

    def first(self, slots: int) -> Asked:
        """Return what is asked about the first slots."""
        return dataclasses.replace(self, choice_RP=self.choice_RP[:, :slots], values_RPK=self.values_RPK[:, :slots])


def conditionals(chooser: Chooser, asked: Asked, along_RP: Ints) -> tuple[Marginals, Floats]:
    """Return what is asked given what stands before each slot, and the probability of what `along_RP` puts there.

    Args:
        chooser: The policy.
        asked: About `R` pages.
        along_RP: Columns that stand in the slots, `NO_CHOICE` for none.

    Returns:
        Item, cluster and mean of each slot given the slots before; P(what stands there), 1 where nothing does.
    """
    rows = np.arange(len(along_RP))
    item, cluster, expected, placed = (np.zeros(along_RP.shape) for _ in range(4))
    cluster_RP = np.take_along_axis(asked.clusters_RK, np.maximum(asked.choice_RP, 0), axis=1)
    asked_RP = asked.choice_RP != NO_CHOICE
    # a slot may be filled while it is looked at, which is how pages are drawn
    for slot, chance_RK in enumerate(chooser.along(along_RP)):
        item[:, slot] = chance_RK[rows, asked.choice_RP[:, slot]] * asked_RP[:, slot]
        same_RK = asked.clusters_RK == cluster_RP[:, slot, None]
        cluster[:, slot] = (chance_RK * same_RK).sum(axis=1) * asked_RP[:, slot]
        expected[:, slot] = (chance_RK * asked.values_RPK[:, slot]).sum(axis=1)
        there_R = along_RP[:, slot] != NO_CHOICE
        placed[:, slot] = np.where(there_R, chance_RK[rows, along_RP[:, slot]], 1.0)
    return Marginals(item_RP=item, cluster_RP=cluster, expected_RP=expected), placed


def marginals(chooser: Chooser, asked: Asked, seeds_R: npt.NDArray[np.uint64], draws: int) -> Marginals:
    """Return what is asked, whatever stands in the slots before.

    Args:
        chooser: The policy.
        asked: About `R` pages.
        seeds_R: What decides each page's draws: they depend on nothing else, whatever pages come together. Policies
            with equal seeds draw from equal numbers.
        draws: Pages drawn for each.
    """
    slots, columns = asked.choice_RP.shape[1], asked.clusters_RK.shape[1]
    if is_exact(columns, slots, draws):
        return enumerated_marginals(chooser, asked)
    if isinstance(chooser, Opinion) and is_plain(chooser):
        return plain_marginals(chooser, asked, seeds_R, draws)
    return drawn_marginals(chooser, asked, seeds_R, draws)


def page_marginals(
    chooser: Chooser, asked: Asked, columns_R: Ints, slots_R: Ints, seeds_R: npt.NDArray[np.uint64], draws: int
) -> Marginals:
    """`marginals` of pages of different sizes: of each as if it came alone, exact or drawn.

    Args:
        chooser: The policy.
        asked: About `R` pages.
        columns_R: Columns of each page; those behind hold nothing.
        slots_R: Slots of each page; those behind hold nothing, and are not asked about.
        seeds_R: See `marginals`.
        draws: Pages drawn for each that is not exact.
    """
    found = Marginals(**{field.name: np.zeros(asked.choice_RP.shape) for field in dataclasses.fields(Marginals)})
    exact_R = are_exact(columns_R, slots_R, draws)
    sizes_RS = np.stack([np.where(exact_R & (slots_R > 1), columns_R, 0), np.where(exact_R, slots_R, 0)], axis=1)
    kinds_TS, kind_R = np.unique(sizes_RS, axis=0, return_inverse=True)
    for kind, (columns, slots) in enumerate(kinds_TS.tolist()):
        for rows in _parts(np.flatnonzero(kind_R.reshape(-1) == kind)):
            if slots:
                part = enumerated_marginals(chooser.take(rows), asked.take(rows).first(slots), columns)
            else:
                part = marginals(chooser.take(rows), asked.take(rows), seeds_R[rows], draws)
            for name, values_RP in vars(found).items():
                values_RP[rows, : slots or None] = getattr(part, name)
    return found


def are_exact(columns_R: Ints, slots_R: Ints, draws: int) -> Bools:
    """Return which pages `is_exact` says of that all ways to fill them are looked at."""
    sizes_TS, size_R = np.unique(np.stack([columns_R, slots_R], axis=1), axis=0, return_inverse=True)
    exact_T = np.array([is_exact(columns, slots, draws) for columns, slots in sizes_TS.tolist()], dtype=np.bool_)
    found: Bools = exact_T[size_R.reshape(-1)]
    return found


def _parts(rows: Ints) -> list[Ints]:
    return [rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER)]


def page_chances(chooser: Chooser, choice_XP: Ints) -> Floats:
    """Return the probability of whole pages, `[X]`."""
    size = len(choice_XP)
    nothing = Asked(
        choice_RP=np.full(choice_XP.shape, NO_CHOICE),
        clusters_RK=np.zeros((size, 1), dtype=np.int64),
        values_RPK=np.zeros((size, choice_XP.shape[1], 1)),
    )
    _, placed_XP = conditionals(chooser, nothing, choice_XP)
    return placed_XP.prod(axis=1)


def drawn_pages(chooser: Chooser, seeds_R: npt.NDArray[np.uint64], slots: int, draws: int) -> Ints:
    """Return pages that a policy draws, `[R, D, P]`."""
    if isinstance(chooser, Opinion) and is_plain(chooser):
        return draw_plain(chooser, seeds_R, slots, draws).column_RDP
    rows_X = np.repeat(np.arange(len(seeds_R)), draws)
    drawer = _Drawing(chooser.take(rows_X), uniform_by_slot(seeds_R, slots, draws).reshape(-1, slots))
    page_chances(drawer, drawer.choice_XP)
    return drawer.choice_XP.reshape(len(seeds_R), draws, slots)


def is_exact(columns: int, slots: int, draws: int) -> bool:
    """Return whether pages are so few that all ways to fill them are looked at."""
    return math.perm(columns, min(max(slots - 1, 0), columns)) <= draws


def drawn_marginals(chooser: Chooser, asked: Asked, seeds_R: npt.NDArray[np.uint64], draws: int) -> Marginals:
    """`marginals` for any policy, slot by slot; the plain truth that `plain_marginals` is compared with."""
    size, slots = asked.choice_RP.shape
    rows_X = np.repeat(np.arange(size), draws)
    uniform_XP = uniform_by_slot(seeds_R, slots, draws).reshape(size * draws, slots)
    drawer = _Drawing(chooser.take(rows_X), uniform_XP)
    found, _ = conditionals(drawer, asked.take(rows_X), drawer.choice_XP)
    return _means(found, np.full((size, draws, slots), 1.0 / draws))


def enumerated_marginals(chooser: Chooser, asked: Asked, columns: int | None = None) -> Marginals:
    """`marginals` by all ways to fill the slots before the last one: exact, for pages of few candidates.

    Args:
        chooser: The policy.
        asked: About `R` pages.
        columns: Only so many columns hold something, the first ones; None for all.
    """
    size, slots = asked.choice_RP.shape
    columns = asked.clusters_RK.shape[1] if columns is None else columns
    placed = min(slots - 1, columns)
    ways_DP = np.full((math.perm(columns, placed), slots), NO_CHOICE)
    ways_DP[:, :placed] = list(itertools.permutations(range(columns), placed))
    rows_X = np.repeat(np.arange(size), len(ways_DP))
    found, placed_XP = conditionals(chooser.take(rows_X), asked.take(rows_X), np.tile(ways_DP, (size, 1)))
    before_XP = np.cumprod(np.concatenate([np.ones((len(rows_X), 1)), placed_XP[:, :-1]], axis=1), axis=1)
    # ways that begin alike share the probability of their beginning
    alike_P = [math.perm(columns - min(slot, placed), placed - min(slot, placed)) for slot in range(slots)]
    return _means(found, (before_XP / np.array(alike_P)).reshape(size, len(ways_DP), slots))


def _means(found: Marginals, weights_RDP: Floats) -> Marginals:
    """Return weighted sums over the `D` pages of each, which lie behind each other in `found`."""
    return Marginals(
        item_RP=(found.item_RP.reshape(weights_RDP.shape) * weights_RDP).sum(axis=1),
        cluster_RP=(found.cluster_RP.reshape(weights_RDP.shape) * weights_RDP).sum(axis=1),
        expected_RP=(found.expected_RP.reshape(weights_RDP.shape) * weights_RDP).sum(axis=1),
    )


class _Drawing:
    """A policy that puts its own draws into the slots: whoever asks it along `choice_XP` asks along drawn pages."""

    def __init__(self, chooser: Chooser, uniform_XP: Floats) -> None:
        self._chooser, self._uniform_XP = chooser, uniform_XP
        self.choice_XP: Ints = np.full(uniform_XP.shape, NO_CHOICE)

    def along(self, choice_XP: Ints) -> Iterator[Floats]:
        """Yield each slot's distribution once the slot is filled by it."""
        for slot, chance_XK in enumerate(self._chooser.along(choice_XP)):
            cumulated_XK = chance_XK.cumsum(axis=1)
            total_X = cumulated_XK[:, -1]
            column_X = (cumulated_XK <= (self._uniform_XP[:, slot] * total_X)[:, None]).sum(axis=1)
            last_X = chance_XK.shape[1] - 1 - (chance_XK[:, ::-1] > 0).argmax(axis=1)
            choice_XP[:, slot] = np.where(total_X > 0, np.minimum(column_X, last_X), NO_CHOICE)
            yield chance_XK

    def take(self, rows: npt.NDArray[np.integer] | slice) -> _Drawing:
        """Return what draws some of the pages."""
        return _Drawing(self._chooser.take(rows), self._uniform_XP[rows])


def plain_marginals(opinion: Opinion, asked: Asked, seeds_R: npt.NDArray[np.uint64], draws: int) -> Marginals:
    """`marginals` for a last stage that `is_plain`."""
    drawn = draw_plain(opinion, seeds_R, asked.choice_RP.shape[1], draws)
    slots = np.arange(asked.choice_RP.shape[1])
    column_RDP = np.maximum(drawn.column_RDP, 0)
    values_RDP = asked.values_RPK[np.arange(len(seeds_R))[:, None, None], slots, column_RDP]
    item_RDP, cluster_RDP = drawn.chances(asked.choice_RP, asked.clusters_RK)
    return Marginals(
        item_RP=item_RDP.mean(axis=1),
        cluster_RP=cluster_RDP.mean(axis=1),
        expected_RP=np.where(drawn.column_RDP == NO_CHOICE, 0.0, values_RDP).mean(axis=1),
    )
