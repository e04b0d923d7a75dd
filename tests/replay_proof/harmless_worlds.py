"""Logs of one item a page on which the challenger is just as good, and one of few rewards or of much outside the log.

Legend: `R` pages.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.replay.rounds import Chances, Floats, Rounds, Target


@dataclasses.dataclass(frozen=True)
class RareReward:
    """A log of two items that earn alike, one of which it hardly shows; the challenger never does.

    Attributes:
        share: Of the pages that show the item that the challenger shows on all.
        rewards: Expected in the whole log.
    """

    share: float
    rewards: float
    difference: float = 0.0

    def draw(self, seed: int, pages: int) -> Rounds:
        """Return a log, each page of another user."""
        rng = np.random.default_rng(seed)
        often_R1 = rng.random((pages, 1)) < self.share
        rewards_R1 = rng.random((pages, 1)) < self.rewards / pages
        logged = np.where(often_R1, self.share, 1 - self.share)
        return _rounds(rewards_R1, logged, logged, often_R1.astype(np.float64), np.arange(pages), 0.0)


@dataclasses.dataclass(frozen=True)
class Outside:
    """A champion that shows, with a small chance, an item that the log never does; all items earn alike.

    Attributes:
        share: Of what the champion shows.
    """

    share: float
    difference: float = 0.0

    def draw(self, seed: int, pages: int) -> Rounds:
        """Return a log of two other items, three pages a user, of which the challenger prefers one."""
        rng = np.random.default_rng(seed)
        first_R1 = rng.random((pages, 1)) < 0.5
        rewards_R1 = rng.random((pages, 1)) < 0.2
        half = np.full((pages, 1), 0.5)
        challenger = np.where(first_R1, 0.55, 0.45)
        return _rounds(rewards_R1, half, half * (1 - self.share), challenger, np.arange(pages) // 3, self.share)


def _rounds(
    rewards: Floats, logged: Floats, champion: Floats, challenger: Floats, users: Floats, outside: float
) -> Rounds:
    pages, nothing = len(rewards), np.zeros(rewards.shape)

    def target(shown: Floats, outside: float) -> Target:
        return Target(
            chances=_chances(shown),
            expected_RP=nothing,
            expected_next_RP=nothing,
            drawn_RP=np.zeros(rewards.shape, dtype=np.bool_),
            outside_R=np.full(pages, outside),
        )

    return Rounds(
        users_R=users.astype(np.uint64),
        times_R=np.arange(pages),
        there_RP=np.ones(rewards.shape, dtype=np.bool_),
        rewards_RP=rewards.astype(np.float64),
        logged=_chances(logged),
        predicted_RP=nothing,
        champion=target(champion, outside),
        challenger=target(challenger, 0.0),
    )


def _chances(shown: Floats) -> Chances:
    return Chances(conditional_RP=shown, marginal_RP=shown, cluster_RP=shown)
