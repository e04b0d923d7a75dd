"""Days of exploration: pages that follow another temperature, and say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.workspace import Workspace
from models.recommend.policy import Policy
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.job import simulate

CONFIG = SimulateConfig(
    users=150, items=200, days=3, page_items=5, candidates=40, explores_from_day=2, exploration_temperature=3.0
)


def test_pages_explore_from_a_day_on_and_their_propensities_follow(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    simulate(CONFIG, workspace, seed=3)
    temperatures: dict[float, set[str]] = {}
    for row in workspace.table("served_pages").read().to_pylist():
        temperatures.setdefault(row["temperature"], set()).add(row["timestamp"].date().isoformat())
        policy = Policy(epsilon=row["epsilon"], temperature=row["temperature"])
        choice = np.array([[row["candidates"].index(item) for item in row["items"]]])
        there = np.ones((1, len(row["candidates"])), dtype=bool)
        found = np.exp(policy.log_prob(np.array([row["candidate_scores"]]), there, choice))
        assert found[0] == pytest.approx(row["propensities"], rel=1e-5)
    assert temperatures == {1.0: {"2025-01-01", "2025-01-02"}, 3.0: {"2025-01-03"}}


def test_the_days_before_are_those_of_a_simulation_that_never_explores(tmp_path: Path) -> None:
    workspaces = [Workspace(tmp_path / name) for name in ("explores", "never")]
    simulate(CONFIG, workspaces[0], seed=3)
    simulate(SimulateConfig(users=150, items=200, days=2, page_items=5, candidates=40), workspaces[1], seed=3)
    explores, never = (workspace.table("served_pages").read() for workspace in workspaces)
    assert explores.slice(0, never.num_rows) == never


def test_a_day_before_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="explores_from_day: expected at least 0, or none, got -1"):
        SimulateConfig(explores_from_day=-1)
    with pytest.raises(ValueError, match=r"exploration_temperature: expected at least 0\.1, got 0\.0"):
        SimulateConfig(exploration_temperature=0.0)
