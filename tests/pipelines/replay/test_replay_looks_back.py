"""What a release says of a logged page does not hang on what was logged after it."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.workspace import Workspace
from models.recommend.config import RecommendConfig
from models.recommend.release import write_release
from models.recommend.release_parts import ReleaseConfig
from models.training.ranker_run import KIND
from models.training.runs import Runs
from pagewise.main import main
from pipelines.batch.arrow import DAY_MS, milliseconds
from pipelines.replay.config import ReplayConfig
from pipelines.replay.logged import read_batch
from pipelines.replay.named import named_policy
from pipelines.replay.policies import open_policy

pytestmark = [pytest.mark.slow, pytest.mark.integration]

FIRST_DAY, DAYS = dt.datetime(2025, 1, 1, tzinfo=dt.UTC), 6
CUT_MS = int(FIRST_DAY.timestamp() * 1000) + 4 * DAY_MS + 14 * DAY_MS // 24
"""14:00 of the fifth day."""
SIMULATED = ["users=300", "items=150", "page_items=5", "candidates=32", "new_items_per_day=5"]
WORLD = [f"simulate.{option}" for option in (*SIMULATED, f"start={FIRST_DAY:%Y-%m-%d}", f"days={DAYS}")]
TABLES = ("events", "served_pages", "items", "users")


def command(verb: str, workspace: Workspace, *options: str) -> None:
    assert main([*verb.split(), "--workspace", workspace.root, *options]) == 0


def batch_stages(workspace: Workspace) -> None:
    for verb in ("validate", "features", "sequences"):
        command(verb, workspace)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """Six simulated days, and a release whose ranker looks at everything that is known of users and items."""
    workspace = Workspace(tmp_path_factory.mktemp("whole"))
    command("simulate", workspace, *WORLD)
    batch_stages(workspace)
    command("semantic-ids", workspace, "semantic_ids.codes=8", "semantic_ids.max_collision_rate=1")
    command("train ranker", workspace, "ranker_train.epochs=2", "ranker.rows=2000")
    manifest = write_release(
        workspace.local_path("releases"),
        workspace,
        config=ReleaseConfig(recommend=RecommendConfig(ranker_weight=1.0)),
        runs={KIND: Runs(workspace, KIND).latest()},
    )
    return workspace, manifest.release_id


@pytest.fixture(scope="module")
def cut(whole: tuple[Workspace, str], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same raw tables without what happened after the cut, and all that batch stages make of them."""
    source, target = whole[0], Workspace(tmp_path_factory.mktemp("cut"))
    for name in TABLES:
        rows, table = source.table(name).read().combine_chunks(), target.table(name)
        if name in ("events", "served_pages"):
            rows = rows.filter(pa.array(milliseconds(rows["timestamp"]) < CUT_MS))
            days = pc.strftime(rows["timestamp"], "%Y-%m-%d")
            entries = [
                table.write_part(rows.filter(pc.equal(days, day)), shard=0, date=day)
                for day in sorted(set(days.to_pylist()))
            ]
        else:
            entries = [table.write_part(rows, shard=0)]
        table.commit(entries, notes=source.table(name).manifest().notes)
    batch_stages(target)
    return target


def opinions(pages: pa.Table, release: tuple[Workspace, str], knowing: Workspace) -> dict[tuple[int, str], float]:
    """Return the release's score of each candidate of each page, by what a workspace knows of the past."""
    config = ReplayConfig(champion="logged", challenger=release[1])
    proposal = open_policy(named_policy(release[1], release[0]), knowing, config).about(read_batch(pages, config))
    pairs = zip(proposal.rows_X.tolist(), proposal.ids.to_pylist(), strict=True)
    return dict(zip(pairs, proposal._scores_X.tolist(), strict=True))  # type: ignore[attr-defined]


def test_an_opinion_does_not_change_when_the_log_after_the_page_is_cut_off(
    whole: tuple[Workspace, str], cut: Workspace
) -> None:
    pages = whole[0].table("pages").read()
    past = pa.array(milliseconds(pages["timestamp"]) < CUT_MS)
    before, after = (pages.filter(rows).combine_chunks() for rows in (past, pc.invert(past)))
    assert min(len(before), len(after)) > 100
    known, alone = (opinions(before, whole, workspace) for workspace in (whole[0], cut))
    assert known.keys() == alone.keys()
    assert len(known) > 10 * len(before)
    keys = list(known)
    np.testing.assert_array_equal([known[key] for key in keys], [alone[key] for key in keys])
    # and it does hang on the log before the page: of later ones, the shorter log knows less
    known, alone = (opinions(after, whole, workspace) for workspace in (whole[0], cut))
    common = sorted(known.keys() & alone.keys())
    assert np.mean([known[key] != alone[key] for key in common]) > 0.5
