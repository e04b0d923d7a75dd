"""The studies of GenRec on a small shop: their runs, their arithmetic, their reports."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from features.workspace import Workspace
from models.genrec.config import DecodeConfig
from models.training.config import TrainConfig
from models.training.genrec_run import KIND, load_genrec
from models.training.runs import ALIGNED, Runs
from models.training.two_tower import train_two_tower
from models.two_tower.config import TwoTowerConfig
from pipelines.studies.config import CurvesConfig, GenRecStudyConfig
from pipelines.studies.curves import BEAMS, HISTORY, PARAMETERS, TRAINING, curves
from pipelines.studies.genrec import StudySettings, genrec_study

pytestmark = pytest.mark.integration

WORKER = Path(__file__).parents[2] / "models" / "training" / "alignment_worker.py"
VARIANTS = ("page", "point", "unmerged", "grpo_sr", "grpo")


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("alignment_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def workspace(worker, tmp_path_factory) -> Workspace:
    return worker.make_workspace(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def settings(worker) -> StudySettings:
    return StudySettings(
        genrec=worker.MODEL,
        train=dataclasses.replace(worker.TRAIN_CONFIG, epochs=2),
        align=dataclasses.replace(worker.ALIGN, steps=4),
        ranker=worker.ranker_worker().MODEL,
        ranker_train=worker.REWARD_TRAIN,
        decode=DecodeConfig(beams=10),
    )


def test_every_variant_is_measured_on_the_same_pages(workspace, settings, tmp_path) -> None:
    before = Runs(workspace, KIND).latest()
    config = GenRecStudyConfig(variants=VARIANTS, split="validation", max_cases=40)
    said: list[str] = []
    report = genrec_study(workspace, config, settings, seeds=[5, 6], folder=tmp_path, progress=said.append)

    assert [row.variant for row in report.rows] == list(VARIANTS)
    assert report.cases == 40
    assert len(said) == len(VARIANTS) * 2
    first, point, unmerged, aligned, _ = report.rows
    assert {interval.mean for interval in first.differences.values()} == {0.0}
    assert point.differences["hr_at_10"].mean == pytest.approx(point.metrics["hr_at_10"] - first.metrics["hr_at_10"])
    # BOS and PAGE, and one place per item where two levels take two
    assert unmerged.prompt_places - 2 == pytest.approx(2 * (first.prompt_places - 2))
    assert aligned.steps == 4
    assert json.loads((tmp_path / "report.json").read_text())["rows"][1]["variant"] == "point"
    assert any(line.startswith("point - page: HR@1 ") for line in report.lines())
    # a study leaves alone what evaluation and releases take
    assert Runs(workspace, KIND).latest() == before
    assert Runs(workspace, KIND).pointed_at(ALIGNED) is None


def test_an_aligned_variant_starts_from_the_run_of_its_seed(workspace, settings, tmp_path) -> None:
    config = GenRecStudyConfig(variants=("page", "grpo_sr"), split="validation", max_cases=10)
    genrec_study(workspace, config, settings, seeds=[5, 6], folder=tmp_path)
    runs = [load_genrec(workspace, path.parent.name)[1] for path in workspace_runs(workspace)]
    parents = {run.aligned_from for run in runs if run.aligned_from is not None}
    assert {load_genrec(workspace, parent)[1].seed for parent in parents} == {5, 6}


def workspace_runs(workspace: Workspace) -> list[Path]:
    return sorted(workspace.local_path("checkpoints", KIND).glob("*/manifest.json"))


def test_curves(workspace, settings, tmp_path) -> None:
    config = CurvesConfig(beams=(2, 10), histories=(1, 5, 5000), widths=(8,), split="validation", max_cases=40)
    train = settings.train
    report = curves(workspace, config, settings.genrec, train, settings.decode, seed=5, folder=tmp_path)
    ats = {name: [point.at for point in report.points if point.curve == name] for name in (BEAMS, HISTORY, PARAMETERS)}
    assert ats[BEAMS] == [2, 10]
    # 5,000 items are more than the model was trained with
    assert ats[HISTORY] == [1, 5]
    assert len(ats[PARAMETERS]) == 2
    assert ats[PARAMETERS][0] < ats[PARAMETERS][1]
    training = [point for point in report.points if point.curve == TRAINING]
    assert len(training) == train.epochs
    assert training[-1].at == pytest.approx(Runs(workspace, KIND).read_report(report.run).seconds)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(report.lines()) == 2 + len(report.points)


def test_wrong_options_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"variants: expected different ones of .*got \('page', 'pages'\)"):
        GenRecStudyConfig(variants=("page", "pages"))
    with pytest.raises(ValueError, match=r"beams: expected numbers of at least 1, got \(0,\); split: .*got 'tests'"):
        CurvesConfig(beams=(0,), split="tests")


def test_a_width_that_no_model_can_have_is_told_before_anything_is_trained(settings, tmp_path) -> None:
    empty = Workspace(tmp_path)
    with pytest.raises(ValueError, match=r"curves\.widths: 97 does not fit the model: width: expected a multiple"):
        curves(
            empty, CurvesConfig(widths=(97,)), settings.genrec, settings.train, settings.decode, seed=5, folder=tmp_path
        )


def test_a_model_with_user_vectors_is_measured_with_its_two_tower(workspace, settings, tmp_path) -> None:
    towers = TwoTowerConfig(hidden=(8,), item_dimensions=4, feature_dimensions=4, history_windows=(1,), batch_size=16)
    train_two_tower(workspace, towers, TrainConfig(epochs=1, threads=1), seed=1, track=False)
    genrec = dataclasses.replace(settings.genrec, user_prefix=8)
    config = CurvesConfig(beams=(5,), histories=(), split="validation", max_cases=10)
    train = dataclasses.replace(settings.train, epochs=1)
    report = curves(workspace, config, genrec, train, settings.decode, seed=5, folder=tmp_path)
    assert (report.points[0].curve, report.points[0].at, report.cases) == (BEAMS, 5, 10)
