from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judged_world import logged, make_world
from logged_pages import page, table

from features.workspace import Workspace
from pipelines.replay.config import ReplayConfig
from pipelines.replay.judging import Judge
from pipelines.replay.named import named_policy
from pipelines.replay.policies import TablePolicy, open_policy
from pipelines.replay.preparing import prepare
from pipelines.replay.rounds import Rounds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    return make_world(tmp_path_factory.mktemp("world"))


def _rounds(workspace: Workspace, pages: pa.Table, challenger: str) -> Rounds:
    config = ReplayConfig(champion="logged", challenger=challenger, reward_model="none")
    return Judge(prepare(workspace, config, [pages])).rounds(pages)


def _written(path: Path, **columns: list[object]) -> str:
    pq.write_table(pa.table(columns), path)
    return f"table:{path}"


@pytest.mark.parametrize("name", ["popular", "transitions", "uniform", "logged"])
def test_rules_are_found_by_name(world: tuple[Workspace, str], name: str) -> None:
    named = named_policy(name, world[0])
    assert (named.kind, named.label, named.release_id, named.estimated) == (name, name, None, False)


def test_a_release_is_found_by_its_id(world: tuple[Workspace, str]) -> None:
    workspace, release = world
    named = named_policy(release, workspace)
    assert (named.kind, named.release_id, named.delta) == ("release", release, 0)
    assert named.label == f"release {release}"


@pytest.mark.integration
def test_without_a_champion_the_alias_stands_for_whoever_logged(world: tuple[Workspace, str]) -> None:
    named = named_policy("champion", world[0])
    assert (named.kind, named.label) == ("logged", "champion (logged)")


def test_a_name_that_nothing_has_is_refused(world: tuple[Workspace, str]) -> None:
    with pytest.raises(ValueError, match=r"policy 'best': expected champion, .* id of a release"):
        named_policy("best", world[0])
    with pytest.raises(FileNotFoundError, match=r"policy 'table:no\.parquet': expected a Parquet file at no\.parquet"):
        named_policy("table:no.parquet", world[0])


def test_whoever_logged_cannot_be_asked(world: tuple[Workspace, str]) -> None:
    with pytest.raises(ValueError, match="policy 'logged': expected one that can be asked, got logged"):
        open_policy(named_policy("logged", world[0]), world[0], ReplayConfig())


def test_popular_shows_the_most_popular_candidates_that_were_not_seen(world: tuple[Workspace, str]) -> None:
    # item n has popularity n; u0 has had i00, i02, i04, i06, i08
    row = page(0, ["i11", "i09"], user_id="u0", timestamp=10**9, propensities=[0.5, 0.5])
    candidates = {"candidates": ["i01", "i08", "i09", "i11"], "candidate_scores": [0.0] * 4}
    rounds = _rounds(world[0], table([{**row, **candidates}]), "popular")
    assert rounds.challenger.chances.conditional_RP.tolist() == [[1.0, 1.0]]
    other = table([{**row, **candidates, "items": ["i11", "i08"]}])
    assert _rounds(world[0], other, "popular").challenger.chances.conditional_RP.tolist() == [[1.0, 0.0]]


def test_transitions_follow_the_history(world: tuple[Workspace, str]) -> None:
    # i08 is followed by i10, which is less popular than i11
    row = page(0, ["i10"], user_id="u0", timestamp=10**9, propensities=[0.5])
    pages = table([{**row, "candidates": ["i11", "i10"], "candidate_scores": [0.0] * 2}])
    assert _rounds(world[0], pages, "transitions").challenger.chances.conditional_RP.tolist() == [[1.0]]
    assert _rounds(world[0], pages, "popular").challenger.chances.conditional_RP.tolist() == [[0.0]]


def test_a_history_ends_before_the_page(world: tuple[Workspace, str]) -> None:
    # before its first page u0 has no history: the popular list stands in, and nothing was seen
    row = page(0, ["i11"], user_id="u0", timestamp=0, propensities=[0.5])
    pages = table([{**row, "candidates": ["i11", "i10", "i08"], "candidate_scores": [0.0] * 3}])
    assert _rounds(world[0], pages, "transitions").challenger.chances.conditional_RP.tolist() == [[1.0]]


def test_a_table_is_renormalised_over_the_candidates(world: tuple[Workspace, str], tmp_path: Path) -> None:
    name = _written(tmp_path / "p.parquet", item_id=["i00", "i01", "i02"], probability=[0.5, 0.3, 0.2])
    row = page(0, ["i01", "i02"], propensities=[0.5, 0.5])
    pages = table([{**row, "candidates": ["i01", "i02", "i07"], "candidate_scores": [0.0] * 3}])
    rounds = _rounds(world[0], pages, name)
    assert rounds.challenger.chances.conditional_RP[0] == pytest.approx([0.3 / 0.5, 1.0])
    assert named_policy(name, world[0]).estimated
    # without candidates all items of the table count
    rounds = _rounds(world[0], table([row]), name)
    assert rounds.challenger.chances.conditional_RP[0] == pytest.approx([0.3, 0.2 / 0.7])


def test_a_table_by_position_is_asked_for_the_page_s_position(world: tuple[Workspace, str], tmp_path: Path) -> None:
    name = _written(
        tmp_path / "p.parquet",
        item_id=["i00", "i01", "i00", "i01"],
        position=[0, 0, 2, 2],
        probability=[0.9, 0.1, 0.25, 0.75],
    )
    pages = table([page(n, ["i01"], propensities=[0.5], context=[("position", str(2 * n))]) for n in range(2)])
    rounds = _rounds(world[0], pages, name)
    assert rounds.challenger.chances.conditional_RP[:, 0] == pytest.approx([0.1, 0.75])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": ["a"], "probability": [1.0]}, "expected columns item_id, probability and perhaps position, got item"),
        ({"item_id": ["a"], "probability": [-0.1]}, r"expected numbers of at least 0, got -0\.1"),
        ({"item_id": ["a"], "probability": [float("nan")]}, "expected numbers of at least 0, got nan"),
        (
            {"item_id": ["a", "b", "a"], "probability": [0.5, 0.3, 0.2]},
            "expected one probability per item, got 2 of 'a'; add them up",
        ),
        (
            {"item_id": ["a", "a", "a"], "probability": [0.5, 0.3, 0.2], "position": [0, 1, 1]},
            "expected one probability per item and position, got 2 of 'a' at position 1; add them up",
        ),
        ({"item_id": ["a", None], "probability": [0.5, 0.5]}, "item_id: expected one in every row, got 1 nulls"),
        ({"item_id": ["a"], "probability": [1.0], "position": [-1]}, "position: expected whole .* from 0 on, got -1"),
        ({"item_id": ["a"], "probability": [1.0], "position": [0.5]}, "position: expected whole .*; Float value 0.5"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    _written(tmp_path / "p.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        TablePolicy(str(tmp_path / "p.parquet"))


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("item_id,probability")
    with pytest.raises(ValueError, match="expected a Parquet file"):
        TablePolicy(str(tmp_path / "p.parquet"))


def test_rules_explore_nothing(world: tuple[Workspace, str]) -> None:
    chances = _rounds(world[0], logged(40, 2, 8), "popular").challenger.chances
    assert set(np.unique(chances.conditional_RP).tolist()) <= {0.0, 1.0}
    assert chances.marginal_RP.max() == 1.0
