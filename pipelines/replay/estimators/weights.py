"""Importance weights: how much likelier a policy does what was logged than whoever logged it.

Legend: `R` logged pages, `P` slots. An array with suffix `_R` weighs a whole page, one with `_RP` each slot by itself.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from pipelines.replay.rounds import Floats, Rounds, Target

Weights = Literal["none", "page", "accepted", "pseudo_inverse", "prefix", "before", "position", "cluster"]
"""What a weight is the ratio of probabilities of, policy over log.

Of whole pages: `none` (1 everywhere), `page` (the page), `accepted` (1 where a draw of the policy is the logged page,
else 0), `pseudo_inverse` (all pairs of position and item, taken as additive). Of slots: `prefix` (the items up to the
slot), `before` (the items before the slot), `position` (the slot's item, whatever the others are), `cluster` (its
cluster in the slot, whatever the others are).
"""
PAGE_WEIGHTS: tuple[Weights, ...] = ("none", "page", "accepted", "pseudo_inverse")
"""Kinds with one weight per page."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shrink:
    """Makes large weights smaller: less variance for some bias.

    Formulas, of a weight `w` at the parameter `c`: `clip` is `min(w, c)`; `switch` is `w` up to `c`, above it 0;
    `optimistic` is `c w / (w^2 + c)`; `harmonic` is `w / (1 - c + c w)`.
    """

    how: Literal["clip", "switch", "optimistic", "harmonic"]
    parameter: float

    def __call__(self, weights: Floats) -> Floats:
        """Return the smaller weights, in their shape.

        Example:
            >>> Shrink(how="optimistic", parameter=2.0)(np.array([1.0, 4.0])).tolist()
            [0.6666666666666666, 0.4444444444444444]
        """
        parameter = self.parameter
        if self.how == "clip":
            return np.asarray(np.minimum(weights, parameter))
        if self.how == "switch":
            return np.where(weights <= parameter, weights, 0.0)
        if self.how == "optimistic":
            return weights / (weights * (weights / parameter) + 1.0)
        return weights / ((1.0 - parameter) + parameter * weights)


def weights_of(rounds: Rounds, target: Target, kind: Weights) -> Floats:
    """Return the weights of one kind of a policy on logged pages, `[R]` for whole pages, else `[R, P]`.

    Weights of slots without an item are those of the slot before or 1; no reward lies there.
    """
    if kind == "none":
        return np.ones(len(rounds))
    if kind == "accepted":
        return np.asarray((target.drawn_RP | ~rounds.there_RP).all(axis=1), dtype=np.float64)
    if kind == "pseudo_inverse":
        absent = target.pseudo_inverse_R is None
        return np.full(len(rounds), np.nan) if absent else np.asarray(target.pseudo_inverse_R, dtype=np.float64)
    if kind == "position":
        return target.chances.marginal_RP / rounds.logged.marginal_RP
    if kind == "cluster":
        return target.chances.cluster_RP / rounds.logged.cluster_RP
    ratio_RP = target.chances.conditional_RP / rounds.logged.conditional_RP
    if kind == "page":
        return np.asarray(ratio_RP.prod(axis=1))
    prefix_RP = ratio_RP.cumprod(axis=1)
    if kind == "prefix":
        return prefix_RP
    return np.concatenate([np.ones((len(rounds), 1)), prefix_RP[:, :-1]], axis=1)
