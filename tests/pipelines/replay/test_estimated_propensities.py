"""A log of a personalised policy without propensities: all counts are right, and the sign is the other one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from log_world import name_of, write_logs

from features.workspace import Workspace
from pipelines.replay.config import ReplayConfig
from pipelines.replay.job import replay

SHARES = np.array([0.4, 0.2, 0.2, 0.2])
"""Of the groups of users; the log shows each user what the group likes."""
LIKED, OTHER = np.array([0.4, 0.3, 0.3, 0.3]), 0.05
"""Chances of a click on what the group likes, and on all else."""
CHALLENGER = np.array([0.91, 0.03, 0.03, 0.03])
"""Shows nearly everybody what the first group likes."""


def personalised(folder: Path, users: int = 800, pages: int = 3200) -> str:
    rng = np.random.default_rng(0)
    group_U = rng.choice(4, size=users, p=SHARES)
    rows = []
    for number in range(pages):
        group = group_U[number % users]
        clicked = rng.random() < LIKED[group]
        row = {"request_id": f"page {number}", "user_id": f"user {number % users}", "timestamp": number * 1000}
        row |= {"policy": "old", "items": [name_of(group)], "event_times": [number * 1000]}
        rows.append({**row, "events": ["click" if clicked else "impression"]})
    return write_logs(folder / "logs", rows)


@pytest.mark.parametrize("trusted", [False, True])
def test_no_verdict_rests_on_them_unless_they_are_trusted(tmp_path: Path, trusted: bool) -> None:
    liked = LIKED * SHARES
    truth = (CHALLENGER * (liked + OTHER * (1 - SHARES))).sum() - liked.sum()
    assert truth == pytest.approx(-0.158, abs=0.001)
    table = {"item_id": [name_of(item) for item in range(4)], "probability": CHALLENGER}
    pq.write_table(pa.table(table), tmp_path / "policy.parquet")
    config = ReplayConfig(
        champion="logged",
        challenger=f"table:{tmp_path}/policy.parquet",
        logs=personalised(tmp_path),
        reward_model="table",
        attribution_hours=0.0,
        resamples=100,
        trust_estimated=trusted,
    )
    verdict = replay(Workspace(tmp_path / "workspace"), config).verdict
    assert verdict.low > 0, "the rates of showing say that the challenger is better"
    assert verdict.verdict == ("ship" if trusted else "not_enough_evidence")
    assert [check.name for check in verdict.checks if not check.passed] == ([] if trusted else ["propensities"])
