"""Many pages at once from the usual last stage: `(1 - epsilon) softmax(score / temperature) + epsilon uniform`.

The softmax part alone draws without replacement as if each column's exponential clock rang at a rate of its weight
(Plackett and Luce; "Gumbel top-k"). The uniform part takes columns away that have not rung yet, and by the lack of
memory of the clocks the next to ring among the others is still a draw of the softmax over them. So one order of the
clocks per page serves all its slots, and what is left of the weights is their sum less what was placed.
Legend: `R` pages, `D` pages drawn for each, `P` slots, `K` columns, `C` eligible columns in their order.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from models.recommend.policy import NO_CHOICE, uniform_numbers
from pipelines.replay.choosers import Opinion
from pipelines.replay.rounds import Bools, Floats, Ints

_LARGEST_EXPONENT = 600.0
"""Weights further apart than e to this are left to `Policy`, which compares what is left anew at each slot."""
_CLOCKS, _COINS, _PICKS = (np.uint64(number) for number in (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0))
"""Streams of numbers of one page."""


def is_plain(opinion: Opinion) -> bool:
    """Return whether the last stage has neither caps nor diversity, and weights that floating point can hold."""
    policy = opinion.policy
    if policy.caps or policy.diversity:
        return False
    scores_RK = opinion.scores_RK
    high_R = np.where(opinion.eligible_RK, scores_RK, -np.inf).max(axis=1, initial=-np.inf)
    low_R = np.where(opinion.eligible_RK, scores_RK, np.inf).min(axis=1, initial=np.inf)
    widest = float((high_R - low_R)[high_R >= low_R].max(initial=0.0))
    return policy.temperature == 0 or widest <= _LARGEST_EXPONENT * policy.temperature


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PlainDraws:
    """Pages drawn, and what is left at each of their slots.

    Attributes:
        epsilon: Share of the uniform part.
        column_RDP: Columns drawn, `NO_CHOICE` where none was left.
        head_RDP: Column that the softmax part draws, or would have drawn.
        weight_RK: Weights of the softmax, 0 where not eligible; None for temperature 0.
        left_weight_RDP: Their sum over what is left at a slot; None for temperature 0.
        unplaced_RDK: 1 for columns that are on no slot, else 0; None for temperature 0.
        left_RP: Number of columns left.
        eligible_RK: See `Opinion`.
    """

    epsilon: float
    column_RDP: Ints
    head_RDP: Ints
    weight_RK: Floats | None
    left_weight_RDP: Floats | None
    unplaced_RDK: Floats | None
    left_RP: Ints
    eligible_RK: Bools

    def chances(self, choice_RP: Ints, clusters_RK: Ints) -> tuple[Floats, Floats]:
        """Return P(slot holds the item | slots before it), and the same of its cluster, `[R, D, P]`.

        Args:
            choice_RP: Columns of the items asked about, `NO_CHOICE` for none.
            clusters_RK: Cluster of each column.
        """
        asked_RP = choice_RP != NO_CHOICE
        column_RP = np.where(asked_RP, choice_RP, 0)
        asked_RP = asked_RP & np.take_along_axis(self.eligible_RK, column_RP, axis=1)
        before_PP = np.tri(choice_RP.shape[1], k=-1, dtype=bool)
        placed_RDPP = (self.column_RDP[:, :, None, :] == column_RP[:, None, :, None]) & before_PP
        free_RDP = asked_RP[:, None] & ~placed_RDPP.any(axis=3)
        item_RDP = self._mixed(self._item(column_RP), 1.0) * free_RDP
        cluster_RDP = self._cluster(choice_RP, clusters_RK, before_PP)
        return item_RDP, np.clip(cluster_RDP, item_RDP, 1.0)

    def _mixed(self, softmax_RDP: Floats, columns_RDP: Floats | float) -> Floats:
        """Return the chance of columns that have this share of the softmax, and are this many."""
        left_R1P = self.left_RP[:, None]
        uniform_RDP = columns_RDP / np.maximum(left_R1P, 1)
        return ((1 - self.epsilon) * softmax_RDP + self.epsilon * uniform_RDP) * (left_R1P > 0)

    def _item(self, column_RP: Ints) -> Floats:
        if self.weight_RK is None or self.left_weight_RDP is None:
            return (self.head_RDP == column_RP[:, None]).astype(np.float64)
        weight_RP = np.take_along_axis(self.weight_RK, column_RP, axis=1)
        return weight_RP[:, None] / self.left_weight_RDP

    def _cluster(self, choice_RP: Ints, clusters_RK: Ints, before_PP: Bools) -> Floats:
        cluster_RP = np.take_along_axis(clusters_RK, np.maximum(choice_RP, 0), axis=1)
        rows_R11 = np.arange(len(choice_RP))[:, None, None]
        placed_RDP = clusters_RK[rows_R11, np.maximum(self.column_RDP, 0)]
        same_RDPP = placed_RDP[:, :, None, :] == cluster_RP[:, None, :, None]
        same_RDPP &= (self.column_RDP != NO_CHOICE)[:, :, None, :]
        same_RPK = (clusters_RK[:, None] == cluster_RP[:, :, None]) & self.eligible_RK[:, None]
        columns_RDP = same_RPK.sum(axis=2)[:, None] - (same_RDPP & before_PP).sum(axis=3)
        softmax_RDP = self._cluster_weight(cluster_RP, clusters_RK, same_RPK, same_RDPP & ~before_PP)
        return self._mixed(softmax_RDP, columns_RDP) * (choice_RP != NO_CHOICE)[:, None]

    def _cluster_weight(self, cluster_RP: Ints, clusters_RK: Ints, same_RPK: Bools, behind_RDPP: Bools) -> Floats:
        """Return the cluster's share of the softmax over what is left: of columns on no slot, and of those to come."""
        rows_R11 = np.arange(len(cluster_RP))[:, None, None]
        if self.weight_RK is None or self.left_weight_RDP is None or self.unplaced_RDK is None:
            return (clusters_RK[rows_R11, self.head_RDP] == cluster_RP[:, None]).astype(np.float64)
        placed_RDP = self.weight_RK[rows_R11, np.maximum(self.column_RDP, 0)]
        to_come_RDP = np.matmul(behind_RDPP, placed_RDP[..., None])[..., 0]
        weight_RKP = (same_RPK * self.weight_RK[:, None]).transpose(0, 2, 1)
        return (np.matmul(self.unplaced_RDK, weight_RKP) + to_come_RDP) / self.left_weight_RDP


def draw_plain(opinion: Opinion, seeds_R: npt.NDArray[np.uint64], slots: int, draws: int) -> PlainDraws:
    """Draw pages.

    Args:
        opinion: Of a policy that `is_plain`.
        seeds_R: What decides each page's draws.
        slots: Slots to fill.
        draws: Pages drawn for each.
    """
    policy, eligible_RK = opinion.policy, opinion.eligible_RK
    weight_RK = None if policy.temperature == 0 else _weights(opinion)
    order_RDP = _best(opinion, slots) if weight_RK is None else _rung(weight_RK, seeds_R, slots, draws)
    order_RDP = np.broadcast_to(order_RDP, (len(seeds_R), draws, order_RDP.shape[2]))
    column_RDP, head_RDP = _filled(order_RDP, eligible_RK, policy.epsilon, seeds_R, slots)
    left_RP = np.maximum(eligible_RK.sum(axis=1, keepdims=True) - np.arange(slots), 0)
    return PlainDraws(
        epsilon=policy.epsilon,
        column_RDP=column_RDP,
        head_RDP=head_RDP,
        weight_RK=weight_RK,
        left_weight_RDP=None if weight_RK is None else _left(weight_RK, column_RDP),
        unplaced_RDK=None if weight_RK is None else _unplaced(weight_RK, column_RDP),
        left_RP=left_RP,
        eligible_RK=eligible_RK,
    )


def uniform_by_slot(seeds_R: npt.NDArray[np.uint64], slots: int, draws: int) -> Floats:
    """Return uniform numbers, `[R, D, P]`; those of a slot do not depend on how many there are."""
    return uniform_numbers(seeds_R, slots * draws).reshape(len(seeds_R), slots, draws).transpose(0, 2, 1)


def _weights(opinion: Opinion) -> Floats:
    scores_RK = np.where(opinion.eligible_RK, opinion.scores_RK, -np.inf)
    best_R1 = scores_RK.max(axis=1, keepdims=True, initial=-np.inf)
    weight_RK: Floats = np.exp((scores_RK - np.where(np.isfinite(best_R1), best_R1, 0.0)) / opinion.policy.temperature)
    return weight_RK


def _best(opinion: Opinion, slots: int) -> Ints:
    """Return the first columns by score, as temperature 0 takes them, `[R, 1, P]`."""
    order_RK = np.argsort(-np.where(opinion.eligible_RK, opinion.scores_RK, -np.inf), axis=1, kind="stable")
    return order_RK[:, None, :slots]


def _rung(weight_RK: Floats, seeds_R: npt.NDArray[np.uint64], slots: int, draws: int) -> Ints:
    """Return the columns whose clocks ring first, in order, `[R, D, P]`."""
    size, columns = weight_RK.shape
    # numbers of a column do not depend on how many there are beside it
    uniform_RKD = uniform_numbers(seeds_R ^ _CLOCKS, columns * draws).reshape(size, columns, draws)
    with np.errstate(divide="ignore"):
        ring_RDK = (-np.log1p(-uniform_RKD) / weight_RK[:, :, None]).transpose(0, 2, 1).copy()
    first = min(slots, columns)
    if first < columns:
        order_RDP = np.argpartition(ring_RDK, first - 1, axis=2)[..., :first]
        inside_RDP = np.argsort(np.take_along_axis(ring_RDK, order_RDP, axis=2), axis=2)
        return np.take_along_axis(order_RDP, inside_RDP, axis=2)
    return np.argsort(ring_RDK, axis=2)


def _filled(
    order_RDP: Ints, eligible_RK: Bools, epsilon: float, seeds_R: npt.NDArray[np.uint64], slots: int
) -> tuple[Ints, Ints]:
    """Fill pages from the orders, now and then uniformly; return the columns and what the order alone would give."""
    size, draws, longest = order_RDP.shape
    coin_RDP, pick_RDP = (uniform_by_slot(seeds_R ^ stream, slots, draws) for stream in (_COINS, _PICKS))
    eligible_RC = np.argsort(~eligible_RK, axis=1, kind="stable")
    place_RK = np.argsort(eligible_RC, axis=1)
    count_R = eligible_RK.sum(axis=1)
    column_RDP = np.full((size, draws, slots), NO_CHOICE)
    head_RDP = np.zeros((size, draws, slots), dtype=np.int64)
    next_RD1 = np.zeros((size, draws, 1), dtype=np.int64)
    for slot in range(min(slots, longest)):
        head_RD = _skip_placed(order_RDP, next_RD1, column_RDP[:, :, :slot])
        head_RDP[:, :, slot] = head_RD
        chosen_RD = head_RD.copy()
        row, draw = np.nonzero((coin_RDP[:, :, slot] < epsilon) & (slot < count_R)[:, None])
        left = np.floor(pick_RDP[row, draw, slot] * (count_R[row] - slot)).astype(np.int64)
        for placed in np.sort(place_RK[row[:, None], column_RDP[row, draw, :slot]], axis=1).T:
            left += left >= placed
        chosen_RD[row, draw] = eligible_RC[row, left]
        column_RDP[:, :, slot] = np.where((slot < count_R)[:, None], chosen_RD, NO_CHOICE)
    return column_RDP, head_RDP


def _skip_placed(order_RDP: Ints, next_RD1: Ints, placed_RDP: Ints) -> Ints:
    """Move on to the first column of each order that is not placed yet; return it."""
    while True:
        head_RD1 = np.take_along_axis(order_RDP, np.minimum(next_RD1, order_RDP.shape[2] - 1), axis=2)
        again_RD1 = (placed_RDP == head_RD1).any(axis=2, keepdims=True) & (next_RD1 < order_RDP.shape[2] - 1)
        if not again_RD1.any():
            return head_RD1[:, :, 0]
        next_RD1 += again_RD1


def _unplaced(weight_RK: Floats, column_RDP: Ints) -> Floats:
    unplaced_RDK = np.ones((*column_RDP.shape[:2], weight_RK.shape[1]))
    row, draw, slot = np.nonzero(column_RDP != NO_CHOICE)
    unplaced_RDK[row, draw, column_RDP[row, draw, slot]] = 0.0
    return unplaced_RDK


def _left(weight_RK: Floats, column_RDP: Ints) -> Floats:
    """Return the weight that is left at each slot: a sum of what is left, since differences would cancel."""
    rows_R11 = np.arange(len(weight_RK))[:, None, None]
    placed_RDP = weight_RK[rows_R11, np.maximum(column_RDP, 0)] * (column_RDP != NO_CHOICE)
    to_come_RDP = np.cumsum(placed_RDP[:, :, ::-1], axis=2)[:, :, ::-1]
    left_RDP: Floats = np.matmul(_unplaced(weight_RK, column_RDP), weight_RK[:, :, None]) + to_come_RDP
    return np.maximum(left_RDP, np.finfo(np.float64).tiny)
