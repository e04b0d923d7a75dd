"""What rewards that happened not to come would have done to the difference.

Standard errors and skewness are made of what came. Where rewards are few and one of the policies weighs more on few
pages (those that the log explores), rewards on these pages may not have come at all: all that is seen speaks for the
other policy, with a small standard error.

Legend: `S` sides (above 0, below 0), `M` sums of absolute values and of squares, `K` kinds of weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.replay.distinct import DistinctUsers
from pipelines.replay.rounds import Floats, Rounds
from pipelines.replay.weight_sums import KINDS, Kind, Policy

UNSEEN = 3
"""Rewards that may be missing: where none came, at most three were to be expected, at 95 % (the rule of three: Hanley
and Lippman-Hand 1983, If nothing goes wrong, is everything all right?)."""
FEW = 20
"""With so many rewards that speak against a difference, its standard error and skewness know enough of them."""


class UnseenSums:
    """Adds up which users have a reward, how large rewards are, and how far weights of both policies differ."""

    def __init__(self) -> None:
        self._users, self._level = DistinctUsers().users, 0
        self._rewards_SM = np.zeros((2, 2))
        self._differences_KSM = np.zeros((len(KINDS), 2, 2))
        self._earned_KSM = np.zeros((len(KINDS), 2, 2))  # of rewards times differences

    def add(self, rounds: Rounds, weights: Mapping[tuple[Policy, Kind], Floats]) -> None:
        """Add usable pages with the weights of both policies, of slots or of whole pages."""
        rewards_RP = np.where(rounds.there_RP, rounds.rewards_RP, 0.0)
        self._keep(DistinctUsers(users=np.unique(rounds.users_R[rewards_RP.any(axis=1)])))
        self._rewards_SM += sides(rewards_RP)
        for number, kind in enumerate(KINDS):
            difference = weights["challenger", kind] - weights["champion", kind]
            rewards = rewards_RP.sum(axis=1) if kind == "page" else rewards_RP
            self._differences_KSM[number] += sides(difference if kind == "page" else difference[rounds.there_RP])
            self._earned_KSM[number] += sides(rewards * difference)

    def merge(self, other: UnseenSums) -> None:
        """Add what another one added up."""
        self._keep(other._distinct())
        self._rewards_SM += other._rewards_SM
        self._differences_KSM += other._differences_KSM
        self._earned_KSM += other._earned_KSM

    def users(self) -> int:
        """Return the number of users with a reward other than 0."""
        return self._distinct().count()

    def shifts(self) -> dict[Kind, tuple[float, float]]:
        """Return by how much `UNSEEN` rewards may lower and raise the sum of B - A over all pages, by kind of weights.

        Each has the usual size, on a page of the usual difference of weights, `sum x^2 / sum |x|` over those on the
        same side of 0: a mean in which large ones count as often as they are large, and no single page alone. Nothing
        is missing where rewards that are worth `FEW` (Kish) did lower or raise it.
        """
        gain, loss = _usual(self._rewards_SM)
        found: dict[Kind, tuple[float, float]] = {}
        for kind, differences_SM, earned_SM in zip(KINDS, self._differences_KSM, self._earned_KSM, strict=True):
            more, less = _usual(differences_SM)
            for_it, against_it = _missing(earned_SM)
            found[kind] = (against_it * max(gain * less, loss * more), for_it * max(gain * more, loss * less))
        return found

    def _distinct(self) -> DistinctUsers:
        return DistinctUsers(level=self._level, users=self._users)

    def _keep(self, users: DistinctUsers) -> None:
        every = self._distinct()
        every.merge(users)
        self._users, self._level = every.users, every.level


def live_shifts(rewards_ASM: Floats, units_A: Floats) -> tuple[float, float]:
    """Return by how much `UNSEEN` rewards of the usual size may lower and raise the difference of two arms' means.

    Args:
        rewards_ASM: `sides` of users' rewards, by arm: champion, challenger. Nothing is missing of what an arm has
            rewards of that are worth `FEW`.
        units_A: What the arms' means are over.

    Example:
        >>> twelve_and_none = np.array([[[12.0, 12.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
        >>> live_shifts(twelve_and_none, np.array([900.0, 100.0]))
        (0.0033333333333333335, 0.03)
    """
    gain, loss = _usual(rewards_ASM.sum(axis=0))
    (more_a, less_a), (more_b, less_b) = (_missing(rewards_SM) for rewards_SM in rewards_ASM)
    units_a, units_b = units_A.tolist()
    return (
        max(more_a * gain / units_a, less_b * loss / units_b),
        max(more_b * gain / units_b, less_a * loss / units_a),
    )


def sides(values: Floats) -> Floats:
    """Return the sums of absolute values and of squares of what lies above and below 0, `[S, M]`."""
    above, below = np.maximum(values, 0.0), np.minimum(values, 0.0)
    return np.array([[above.sum(), np.square(above).sum()], [-below.sum(), np.square(below).sum()]])


def _usual(sums_SM: Floats) -> tuple[float, float]:
    """Return the usual size on each side, 0 where there is none."""
    above, below = np.divide(sums_SM[:, 1], sums_SM[:, 0], out=np.zeros(2), where=sums_SM[:, 0] > 0)
    return float(above), float(below)


def _missing(sums_SM: Floats) -> list[int]:
    """Return how many rewards may be missing on each side, given sums of those that came."""
    worth_S = np.divide(sums_SM[:, 0] ** 2, sums_SM[:, 1], out=np.zeros(2), where=sums_SM[:, 1] > 0)
    return [UNSEEN if worth < FEW else 0 for worth in worth_S]
