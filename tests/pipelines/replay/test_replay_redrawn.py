"""Nothing that a replay weighs pages by knows what people did on these pages: models, tables, opinions.

The same marketplace twice, up to the answers of the days that are kept from all models, which are drawn anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.definitions import ITEM_FEATURES
from features.workspace import Workspace
from models.recommend.release_manifest import latest_release
from pagewise.main import main
from pipelines.replay.config import ReplayConfig
from pipelines.replay.job import pages_of, pages_to_judge
from pipelines.replay.judging import Judge
from pipelines.replay.named import named_policy
from pipelines.replay.preparing import prepare
from pipelines.simulator import day
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.job import simulate
from pipelines.simulator.world import stream

pytestmark = [pytest.mark.slow, pytest.mark.integration]

KEPT_FROM = 5
WORLD = SimulateConfig(users=400, items=250, days=8, explores_from_day=KEPT_FROM, exploration_temperature=2.5)
SETTINGS = """
batch: {split: {test_days: 3}}
train: {epochs: 1, threads: 1}
recommend: {temperature: 0.03}
"""
LEARNED = (
    "weights.safetensors",
    "calibration.json",
    "item_vectors.parquet",
    "codebooks.safetensors",
    "two_tower.faiss",
)
COUNTED = ("item_statistics", "transitions")
FIRST_DAY = f"r{KEPT_FROM:03d}-"


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, smallest_models: str) -> list[Workspace]:
    """Two workspaces with a release each; other people answer from the first of the kept days on."""

    def redrawn(seed: int, name: str, number: int) -> np.random.Generator:
        late = name == "people" and number >= KEPT_FROM
        return stream(seed + late, name, number)

    made = []
    for draw in (stream, redrawn):
        folder = tmp_path_factory.mktemp("twin")
        (folder / "tiny.yaml").write_text(smallest_models + SETTINGS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(day, "stream", draw)
            simulate(WORLD, Workspace(folder / "shop"), seed=1)
        assert main(["run", "--workspace", str(folder / "shop"), "--config", str(folder / "tiny.yaml")]) == 0
        made.append(Workspace(folder / "shop"))
    return made


def release_of(workspace: Workspace) -> Path:
    return latest_release(workspace.local_path("releases"))


def test_a_release_learned_nothing_from_the_days_that_were_kept(twins: list[Workspace]) -> None:
    contents = [
        {
            (path.relative_to(folder).parts[0], path.name): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.name in LEARNED
        }
        for folder in map(release_of, twins)
    ]
    assert contents[0] == contents[1]
    assert {name for _, name in contents[0]} == set(LEARNED)
    for name in COUNTED:
        one, other = (Workspace(release_of(workspace)).table(name).read() for workspace in twins)
        assert one.equals(other), name
    # while what is counted up to now knows of them: that is what a page is looked at without
    one, other = (Workspace(release_of(workspace)).table(ITEM_FEATURES).read() for workspace in twins)
    assert not one.equals(other)


def test_weights_of_pages_do_not_hang_on_what_they_earned(twins: list[Workspace]) -> None:
    """Each user's first page of the first kept day: the same past, candidates and draw, other answers."""
    judged = []
    for workspace in twins:
        config = ReplayConfig(champion="logged", challenger=release_of(workspace).name, reward_model="none")
        policies = [named_policy(name, workspace) for name in (config.champion, config.challenger)]
        pages = pa.concat_tables(pages_of(pages_to_judge(workspace, config, policies))).sort_by("timestamp")
        ids, users = pages["request_id"].to_pylist(), pages["user_id"].to_pylist()
        first = {user: row for row, user in reversed(list(enumerate(users)))}
        rows = sorted((ids[row], row) for row in first.values() if ids[row].startswith(FIRST_DAY))
        chosen = pages.take(pa.array([row for _, row in rows]))
        judged.append((chosen, Judge(prepare(workspace, config, [pages])).rounds(chosen)))
    (pages, one), (others, other) = judged
    assert len(pages) > 50
    assert pages["items"].equals(others["items"])
    assert (one.rewards_RP != other.rewards_RP).any(axis=1).mean() > 0.3
    for chances in ("conditional_RP", "marginal_RP"):
        for policy in ("logged", "challenger"):
            here, there = (getattr(rounds, policy) for rounds in (one, other))
            here, there = (getattr(part, "chances", part) for part in (here, there))
            np.testing.assert_array_equal(getattr(here, chances), getattr(there, chances))
