"""Logged pages made of given or random numbers, for tests of estimators."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.replay.rounds import Bools, Chances, Floats, Rounds, Target


def chances(
    conditional_RP: npt.ArrayLike, marginal_RP: npt.ArrayLike | None = None, cluster_RP: npt.ArrayLike | None = None
) -> Chances:
    """Return chances of logged items; what is not given is the same as the conditional ones."""
    conditional = np.asarray(conditional_RP, dtype=np.float64)
    return Chances(
        conditional_RP=conditional,
        marginal_RP=conditional if marginal_RP is None else np.asarray(marginal_RP, dtype=np.float64),
        cluster_RP=conditional if cluster_RP is None else np.asarray(cluster_RP, dtype=np.float64),
    )


def target(
    of_logged: Chances,
    expected_RP: npt.ArrayLike = 0.0,
    expected_next_RP: npt.ArrayLike = 0.0,
    drawn_RP: npt.ArrayLike = False,
    pseudo_inverse_R: Floats | None = None,
) -> Target:
    """Return a policy with these chances."""
    shape = of_logged.conditional_RP.shape
    return Target(
        chances=of_logged,
        expected_RP=np.broadcast_to(np.asarray(expected_RP, dtype=np.float64), shape),
        expected_next_RP=np.broadcast_to(np.asarray(expected_next_RP, dtype=np.float64), shape),
        drawn_RP=np.broadcast_to(np.asarray(drawn_RP, dtype=bool), shape),
        outside_R=np.zeros(shape[0]),
        pseudo_inverse_R=pseudo_inverse_R,
    )


def rounds_of(
    rewards_RP: npt.ArrayLike,
    logged: Chances,
    champion: Target,
    challenger: Target,
    predicted_RP: npt.ArrayLike = 0.0,
    users_R: npt.ArrayLike | None = None,
    there_RP: Bools | None = None,
) -> Rounds:
    """Return logged pages, of one user each unless said otherwise."""
    rewards = np.asarray(rewards_RP, dtype=np.float64)
    pages = len(rewards)
    return Rounds(
        users_R=np.arange(pages, dtype=np.uint64) if users_R is None else np.asarray(users_R, dtype=np.uint64),
        times_R=np.arange(pages, dtype=np.int64),
        there_RP=np.ones(rewards.shape, dtype=bool) if there_RP is None else there_RP,
        rewards_RP=rewards,
        logged=logged,
        predicted_RP=np.broadcast_to(np.asarray(predicted_RP, dtype=np.float64), rewards.shape),
        champion=champion,
        challenger=challenger,
    )


def random_rounds(seed: int, pages: int, slots: int, users: int | None = None, ragged: bool = True) -> Rounds:
    """Return pages with random chances, rewards and predictions, the last slots of some of them empty."""
    rng = np.random.default_rng(seed)
    shape = (pages, slots)
    lengths_R = rng.integers(1, slots + 1, pages) if ragged else np.full(pages, slots)
    there_RP = np.arange(slots) < lengths_R[:, None]

    def inside(array_RP: Floats, empty: float) -> Floats:
        return np.where(there_RP, array_RP, empty)

    def random_chances() -> Chances:
        return chances(*(inside(rng.uniform(0.1, 0.9, shape), 1.0) for _ in range(3)))

    def random_target() -> Target:
        predicted = (inside(rng.normal(size=shape), 0.0) for _ in range(2))
        return target(random_chances(), *predicted, rng.random(shape) < 0.8, rng.exponential(size=pages))

    return rounds_of(
        inside(np.round(rng.exponential(size=shape) * (rng.random(shape) < 0.5), 2), 0.0),
        random_chances(),
        random_target(),
        random_target(),
        inside(rng.normal(size=shape), 0.0),
        rng.integers(0, users or pages, pages),
        there_RP,
    )
