"""Open Bandit small sample: the log of pages drawn at random, judged for Thompson sampling as its own log describes it.

Online, Thompson sampling had 69 clicks of 10,000, random pages 46.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from features.workspace import Workspace
from pagewise.main import main
from pipelines.replay.config import ReplayConfig
from pipelines.replay.job import replay

pytestmark = pytest.mark.slow

ITEMS, POSITIONS = 34, 3
ONLINE = 0.0069


def columns(file: Path) -> tuple[np.ndarray, ...]:
    table = pa.csv.read_csv(file)
    names = ("item_id", "position", "propensity_score", "click")
    item, position, propensity, click = (table[name].to_numpy() for name in names)
    return item, position - 1, propensity, click


def mean_propensities(file: Path) -> np.ndarray:
    """Return the mean logged propensity of each pair of position and item."""
    item, position, propensity, _ = columns(file)
    sums, counts = np.zeros((POSITIONS, ITEMS)), np.zeros((POSITIONS, ITEMS))
    np.add.at(sums, (position, item), propensity)
    np.add.at(counts, (position, item), 1)
    return sums / np.maximum(counts, 1)


def test_random_pages_tell_what_thompson_sampling_earns(real_data: Path, tmp_path: Path) -> None:
    folder, workspace = real_data / "open_bandit_sample", Workspace(tmp_path / "ws")
    random = folder / "random" / "men" / "men.csv.gz"
    if not random.is_file():
        pytest.skip(f"no {random}")
    mean_PI = mean_propensities(folder / "bts" / "men" / "men.csv.gz")
    position, item = np.nonzero(mean_PI)
    table = {
        "item_id": [f"men-{one}" for one in item],
        "position": position + 1,
        "probability": mean_PI[position, item],
    }
    pq.write_table(pa.table(table), tmp_path / "bts.parquet")
    at = ["--workspace", workspace.root]
    for words in (["import", "open-bandit", "--source", str(random)], ["validate"], ["features"]):
        assert main([*words, *at]) == 0
    policy = f"table:{tmp_path / 'bts.parquet'}"
    config = ReplayConfig(champion="logged", challenger=policy, attribution_hours=0.0, reward_model="none")
    report = replay(workspace, config)

    item, position, propensity, click = columns(random)
    weights = (mean_PI / mean_PI.sum(axis=1, keepdims=True))[position, item] / propensity
    assert report.question.counted == len(weights) == 10_000
    assert report.primary.name == "ips"
    assert report.primary.value_b == pytest.approx((weights * click).mean(), abs=1e-9)
    assert report.primary.value_b == pytest.approx(0.0055145781, abs=1e-9)
    assert report.primary.mean_weight_b == pytest.approx(weights.mean(), abs=1e-9)
    assert report.primary.value_a == pytest.approx(0.0046)
    assert report.primary.low < ONLINE - 0.0046 < report.primary.high
    assert f"probabilities of {policy} are estimates" in report.notes
    assert report.verdict.verdict == "not_enough_evidence"
    failed = [check.name for check in report.verdict.checks if not check.passed]
    assert failed == ["rewarded_users"]  # 46 clicks
