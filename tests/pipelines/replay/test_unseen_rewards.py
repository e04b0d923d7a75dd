"""What rewards that did not come would do to the difference, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from replay_worlds import chances, random_rounds, rounds_of, target

from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics
from pipelines.replay.rounds import Rounds
from pipelines.replay.state import packed, unpacked


def diagnostics(rounds: Rounds) -> Diagnostics:
    return Diagnostics.empty(ReplayConfig(), rounds.there_RP.shape[1]).add(rounds)


def test_three_rewards_of_the_usual_size_on_pages_of_the_usual_difference() -> None:
    """Challenger less champion: +1, +3, -0.5; the mean of +1 and +3 by their size is 10 / 4, of 2 and 6 is 40 / 8."""
    logged = chances([[0.2], [0.2], [0.2]])
    rounds = rounds_of([[2], [6], [0]], logged, target(logged), target(chances([[0.4], [0.8], [0.1]])))
    report = diagnostics(rounds).report()
    assert report.unseen["page"] == report.unseen["position"] == pytest.approx((3 * 5 * 0.5, 3 * 5 * 2.5))
    assert report.rewarded_users == 2


def test_losses_that_did_not_come_count_on_the_other_side() -> None:
    """A loss of 1 where the challenger weighs 3 more takes more away than a gain of 1 where it weighs 0.5 less."""
    logged = chances([[0.2], [0.2]])
    rounds = rounds_of([[-1], [1]], logged, target(logged), target(chances([[0.8], [0.1]])))
    assert diagnostics(rounds).report().unseen["page"] == pytest.approx((3 * 3, 3 * 3))


def test_without_rewards_or_differences_nothing_is_missing() -> None:
    rounds = rounds_of(np.zeros((3, 1)), chances(np.ones((3, 1))), *[target(chances(np.ones((3, 1))))] * 2)
    report = diagnostics(rounds).report()
    assert (set(report.unseen.values()), report.rewarded_users) == ({(0.0, 0.0)}, 0)


@pytest.mark.parametrize(("rewards", "missing"), [(19, 3), (20, 0)])
def test_nothing_is_missing_where_enough_came(rewards: int, missing: int) -> None:
    """One reward where the challenger weighs 1 more, so many where it weighs 0.5 less."""
    logged = chances(np.full((40, 1), 0.2))
    policy = np.where(np.arange(40) == 0, 0.4, 0.1)[:, None]
    rewards_RP = (np.arange(40) <= rewards).astype(float)[:, None]
    report = diagnostics(rounds_of(rewards_RP, logged, target(logged), target(chances(policy)))).report()
    assert report.unseen["page"] == pytest.approx((missing * 0.5, 3 * 1))


def test_parts_say_what_the_whole_says_and_it_can_be_kept() -> None:
    rounds = random_rounds(0, 500, 3, users=200)
    whole, merged = diagnostics(rounds), diagnostics(rounds.take(slice(0, 100)))
    merged.merge(diagnostics(rounds.take(slice(100, 500))))
    kept = unpacked(packed(merged), Diagnostics.empty(ReplayConfig(), 3)).report()
    assert kept.rewarded_users == whole.report().rewarded_users == len(np.unique(rounds.users_R[_rewarded(rounds)]))
    for kind, shift in whole.report().unseen.items():
        assert kept.unseen[kind] == pytest.approx(shift)


def _rewarded(rounds: Rounds) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray((rounds.rewards_RP != 0).any(axis=1))
