"""Logged pages through the estimators of replay, rows/s, beside Open Bandit Pipeline's on the same arrays.

Both get arrays that are in memory already, and compute the same seven estimators (IPS, SNIPS, DM, DR, SNDR, Switch-DR,
DRos) of two policies, the log's and another: once for values alone, once for intervals, which ours always brings. Open
Bandit Pipeline works on probabilities of all actions, ours on those of what was logged, so pages have few actions (10),
which suits it best. Values are asserted to be equal first. Where it is not installed there is no peer. The whole job is
measured without a peer: Parquet files of pages of ten items among fifty candidates, judged for two policies, to the
verdict.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines" / "replay"))

from log_world import logged_pages, write_logs
from replay_worlds import chances, rounds_of, target

from features.workspace import Workspace
from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import estimates_of
from pipelines.replay.estimators import (
    DirectMethod,
    DoublyRobust,
    Ips,
    SelfNormalisedDr,
    SelfNormalisedIps,
    ShrunkDr,
    SwitchDr,
)
from pipelines.replay.job import replay
from pipelines.replay.rounds import Rounds
from pipelines.replay.tally import Tally

NAME = "replay_rows_per_s"
ACTIONS, LIMIT, RESAMPLES = 10, 3.0, 100
REPEATS = 3
ESTIMATORS = (
    Ips(),
    SelfNormalisedIps(),
    DirectMethod(),
    DoublyRobust(),
    SelfNormalisedDr(),
    SwitchDr(clips=(LIMIT,)),
    ShrunkDr(clips=(LIMIT,)),
)
PEERS = (
    ("InverseProbabilityWeighting", {}),
    ("SelfNormalizedInverseProbabilityWeighting", {}),
    ("DirectMethod", {}),
    ("DoublyRobust", {}),
    ("SelfNormalizedDoublyRobust", {}),
    ("SwitchDoublyRobust", {"lambda_": LIMIT}),
    ("DoublyRobustWithShrinkage", {"lambda_": LIMIT}),
)


def run(full: bool) -> list[dict[str, Any]]:
    """Measure 200,000 rows; with `full` also 10,000 and 2,000,000."""
    results = [one for rows in ((10_000, 200_000, 2_000_000) if full else (200_000,)) for one in estimators(rows)]
    return [*results, whole_job(5_000)]


def whole_job(pages: int) -> dict[str, Any]:
    """Judge pages in files, for the log's policy and a uniform one."""
    with tempfile.TemporaryDirectory() as folder:
        log = logged_pages(pages, pages // 4, items=1000, candidates=50, slots=10)
        logs = write_logs(Path(folder, "logs"), log, files=4)
        config = ReplayConfig(champion="logged", challenger="uniform", logs=logs, attribution_hours=0.0)
        started = time.perf_counter()
        report = replay(Workspace(Path(folder, "workspace")), config)
        seconds = time.perf_counter() - started
    assert report.question.counted == pages
    return result(f"{NAME}[whole job]", pages / seconds, None, "pages/s")


def estimators(rows: int) -> list[dict[str, Any]]:
    """Compare values, then measure them without and with intervals."""
    log = Log(rows)
    peers = _peers()
    suffix = "" if rows == 200_000 else f", {rows:,} rows"
    if peers is not None:
        np.testing.assert_allclose(ours(log, 0), theirs(log, peers, 0), rtol=0, atol=1e-9)
    found = []
    for title, resamples in (("values", 0), ("intervals", RESAMPLES)):
        seconds = best(lambda count=resamples: ours(log, count))
        peer = None if peers is None else best(lambda count=resamples: theirs(log, peers, count), 1)
        found.append(result(f"{NAME}[{title}{suffix}]", rows / seconds, None if peer is None else rows / peer))
    return found


class Log:
    """Random rows: a log of one item per page, a policy to judge, and a reward model."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(rows)
        self.logged_RI, self.policy_RI = (rng.dirichlet(np.ones(ACTIONS), rows) + 0.02 for _ in range(2))
        for chance_RI in (self.logged_RI, self.policy_RI):
            chance_RI /= chance_RI.sum(axis=1, keepdims=True)
        self.action_R = (self.logged_RI.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
        self.reward_R, self.predicted_RI = rng.integers(0, 2, rows).astype(float), rng.random((rows, ACTIONS))
        at = np.arange(rows)
        logged = chances(self.logged_RI[at, self.action_R][:, None])
        predicted_R1 = self.predicted_RI[at, self.action_R][:, None]
        champion = target(logged, (self.logged_RI * self.predicted_RI).sum(axis=1)[:, None])
        challenger = target(
            chances(self.policy_RI[at, self.action_R][:, None]),
            (self.policy_RI * self.predicted_RI).sum(axis=1)[:, None],
        )
        self.rounds: Rounds = rounds_of(self.reward_R[:, None], logged, champion, challenger, predicted_R1)


def ours(log: Log, resamples: int) -> list[float]:
    """Return both policies' values; intervals come with them, the bootstrap with so many resamples."""
    tally = Tally.of(ESTIMATORS, buckets=2048, slots=1).add(log.rounds)
    found = estimates_of(ESTIMATORS, tally, ReplayConfig(resamples=max(resamples, 100)))
    return [value for one in found for value in (one.value_a, one.value_b)]


def theirs(log: Log, peers: list[Any], resamples: int) -> list[float]:
    """Return both policies' values, and compute the bootstrap's intervals of each if there are resamples."""
    inputs = {
        "reward": log.reward_R,
        "action": log.action_R,
        "pscore": log.logged_RI[np.arange(len(log.action_R)), log.action_R],
        "position": np.zeros(len(log.action_R), dtype=int),
        "estimated_rewards_by_reg_model": log.predicted_RI[:, :, None],
    }
    values = []
    for peer in peers:
        for policy_RI in (log.logged_RI, log.policy_RI):
            values.append(peer.estimate_policy_value(action_dist=policy_RI[:, :, None], **inputs))
            if resamples:
                options = {"n_bootstrap_samples": resamples, "random_state": 0}
                peer.estimate_interval(action_dist=policy_RI[:, :, None], **inputs, **options)
    return values


def _peers() -> list[Any] | None:
    try:
        ope = importlib.import_module("obp.ope")
    except ImportError:
        return None
    return [getattr(ope, name)(**options) for name, options in PEERS]


def best(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the seconds of the fastest of some runs."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def result(name: str, rate: float, peer: float | None, unit: str = "rows/s") -> dict[str, Any]:
    """Return one measurement."""
    return {
        "name": name,
        "ours": rate,
        "peer": peer,
        "peer_name": None if peer is None else "Open Bandit Pipeline 0.5.7",
        "unit": unit,
        "ratio": None if peer is None else rate / peer,
        "better": "higher",
    }
