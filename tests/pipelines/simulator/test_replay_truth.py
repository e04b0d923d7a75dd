"""The truth about a replay against the oracle, asked about pages drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest

from features.workspace import Workspace
from models.recommend.policy import Policy
from pipelines.batch.config import BatchConfig, SplitConfig
from pipelines.batch.jobs import build_features, validate
from pipelines.replay.config import ReplayConfig
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.job import simulate
from pipelines.simulator.oracle import ORACLE_FILE, Oracle
from pipelines.simulator.replay_truth import true_difference

pytestmark = pytest.mark.integration

DRAWS = 300


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("truth"))
    simulate(SimulateConfig(users=40, items=100, days=3, page_items=5, candidates=20), workspace, seed=3)
    batch = BatchConfig(split=SplitConfig(test_days=1, validation_days=1))
    validate(workspace, batch)
    build_features(workspace, batch)
    return workspace


def drawn_value(workspace: Workspace, policy: Policy | None, kind: str, pages: list[dict]) -> tuple[float, float]:
    """Mean true reward of pages drawn by a policy, the log's own for None; and its standard error."""
    oracle = Oracle.load(workspace.local_path(*ORACLE_FILE))
    rng = np.random.default_rng(0)
    found = []
    for page in pages:
        drawer = policy or Policy(epsilon=page["epsilon"], temperature=page["temperature"])
        scores = np.tile(np.array(page["candidate_scores"]), (DRAWS, 1))
        choice, _ = drawer.draw(scores, np.ones(scores.shape, dtype=bool), rng.random((DRAWS, len(page["items"]))))
        drawn = [[page["candidates"][column] for column in row] for row in choice]
        times = np.full(DRAWS, page["timestamp"].timestamp() * 1000, dtype=np.int64)
        found.append(oracle.expected_reward([page["user_id"]] * DRAWS, times, drawn, kind))
    values = np.array(found)
    return float(values.mean()), float(values.std(axis=1).mean() / np.sqrt(values.size))


@pytest.mark.parametrize("kind", ["click", "value"])
def test_both_policies_are_worth_what_their_drawn_pages_are(workspace, kind):
    config = ReplayConfig(champion="logged", challenger="uniform", reward={kind: 1.0}, attribution_hours=0.0, draws=512)
    truth = true_difference(workspace, config)
    pages = workspace.table("pages").read().to_pylist()
    assert (truth.pages, truth.half_width) == (len(pages), 0.0)
    for policy, value in ((None, truth.champion), (Policy(epsilon=1.0, temperature=0.0), truth.challenger)):
        drawn, error = drawn_value(workspace, policy, kind, pages)
        assert value == pytest.approx(drawn, abs=4 * error + 0.003 * abs(drawn))
    assert truth.difference == truth.challenger - truth.champion


def test_a_sample_says_how_far_it_may_be_off(workspace):
    config = ReplayConfig(champion="logged", challenger="uniform", attribution_hours=0.0)
    whole, part = true_difference(workspace, config), true_difference(workspace, config, most=30)
    assert part.pages == 30
    assert 0 < part.half_width < 1
    assert part.difference == pytest.approx(whole.difference, abs=2 * part.half_width)
