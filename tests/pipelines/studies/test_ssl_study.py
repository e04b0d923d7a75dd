"""The study of self-supervision on a small shop: its runs, its arithmetic, its report."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.workspace import Workspace
from models.recommend.catalogue import plain_catalogue
from models.recommend.requests import requests_from_sequences
from models.training.runs import MissingRunError, Runs
from models.training.two_tower import exact_metrics, load_two_tower
from models.two_tower.model import TwoTower
from pipelines.studies.config import SslStudyConfig
from pipelines.studies.ssl import interval, ssl_study

pytestmark = pytest.mark.integration

WORKER = Path(__file__).parents[2] / "models" / "training" / "two_tower_worker.py"
STUDY = SslStudyConfig(fractions=(1.0, 0.25), split="validation")
SEEDS = (4, 7)


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("two_tower_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def workspace(worker, tmp_path_factory) -> Workspace:
    """Items 0 to 3 were liked more often than others: they are the head."""
    workspace = worker.make_workspace(tmp_path_factory.mktemp("study"))
    table = workspace.table("item_statistics")
    counts = dict.fromkeys([field.name for field in table.schema if field.type == pa.int64()], 1)
    rows = [
        {
            "item_id": f"i{number:02d}",
            **counts,
            "popularity": 9.0 if number < 4 else 1.0,
            "recent_popularity": 1.0,
            "first_time": 0,
            "last_time": 0,
        }
        for number in range(worker.shop.ITEM_COUNT)
    ]
    worker.commit(workspace, "item_statistics", pa.Table.from_pylist(rows, table.schema))
    return workspace


def study(worker, workspace, folder, told=None, **changes):
    config = dataclasses.replace(worker.CONFIG, **changes)
    train = dataclasses.replace(worker.TRAIN_CONFIG, epochs=2, evaluate_every_epochs=1)
    return ssl_study(workspace, STUDY, config, train, seeds=SEEDS, folder=folder, progress=told)


@pytest.fixture(scope="module")
def studied(worker, workspace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    told: list[str] = []
    return study(worker, workspace, folder, told.append), folder, told


def test_every_run_is_trained_on_its_share_with_its_weight(workspace, studied):
    report, _, told = studied
    assert [line.rsplit(":", 1)[0] for line in told] == [
        f"{share} of the data, seed {seed}, {name}"
        for share in ("100%", "25%")
        for seed in SEEDS
        for name in ("plain", "ssl")
    ]
    names = [path.parent.name for path in workspace.local_path("checkpoints", "two_tower").glob("*/manifest.json")]
    models = [Runs(workspace, "two_tower").open(name).config["model"] for name in names]
    found = sorted((model["train_fraction"], model["ssl_weight"]) for model in models)
    assert found == sorted((share, weight) for share in (1.0, 0.25) for weight in (0.0, 0.3) for _ in SEEDS)
    examples: dict[float, set[int]] = {1.0: set(), 0.25: set()}
    for name, model in zip(names, models, strict=True):
        examples[model["train_fraction"]].add(Runs(workspace, "two_tower").read_report(name).examples)
    assert max(examples[0.25]) < 0.3 * min(examples[1.0])
    assert (report.dataset, report.split, report.cases, report.seeds) == ("unnamed", "validation", 36, 2)


def test_no_run_of_a_study_is_taken_for_the_shops_model(workspace, studied):
    with pytest.raises(MissingRunError, match="has no trained two-tower model"):
        Runs(workspace, "two_tower").latest()


def test_means_and_differences_are_those_of_the_runs(studied):
    report, folder, _ = studied
    content = json.loads((folder / "report.json").read_text())
    runs = {(entry["fraction"], entry["variant"]): entry["seeds"] for entry in content["runs"]}
    assert [row.slice for row in report.comparisons[:12:4]] == ["all", "head", "tail"]
    for row in report.comparisons:
        plain, ssl = (
            np.array([seed[f"{row.slice}.{row.metric}"] for seed in runs[row.fraction, name]])
            for name in ("plain", "ssl")
        )
        assert row.plain == pytest.approx(interval(plain))
        assert row.ssl == pytest.approx(interval(ssl))
        assert row.difference == pytest.approx(interval(ssl - plain))
    assert any(row.difference[0] for row in report.comparisons), "the two variants are different models"
    assert len(report.lines()) == 2 + len(report.comparisons)


def last_of_the_study(workspace) -> TwoTower:
    for path in workspace.local_path("checkpoints", "two_tower").glob("*/manifest.json"):
        model, record = load_two_tower(workspace, path.parent.name)
        if (record.seed, record.model.train_fraction, record.model.ssl_weight) == (7, 0.25, 0.3):
            return model
    raise AssertionError("the run is missing")


def test_what_is_measured_is_the_exact_ranking(worker, workspace, studied):
    _, folder, _ = studied
    runs = json.loads((folder / "report.json").read_text())["runs"]
    catalogue = plain_catalogue([f"i{number:02d}" for number in range(worker.shop.ITEM_COUNT)])
    cases = requests_from_sequences(workspace, catalogue, "validation", max_history=3)
    model = last_of_the_study(workspace)
    expected = exact_metrics(model, cases, catalogue)
    found = runs[-1]["seeds"][-1]
    for name in ("hr_at_10", "ndcg_at_10", "hr_at_50"):
        assert found[f"all.{name}"] == pytest.approx(expected[name])


def test_finished_runs_are_found_again(worker, workspace, studied, tmp_path):
    manifests = sorted(workspace.local_path("checkpoints", "two_tower").glob("*/manifest.json"))
    times = [path.stat().st_mtime_ns for path in manifests]
    assert study(worker, workspace, tmp_path) == studied[0]
    again = sorted(workspace.local_path("checkpoints", "two_tower").glob("*/manifest.json"))
    assert [path.stat().st_mtime_ns for path in again] == times


def test_mistakes_are_told(worker, workspace, tmp_path):
    with pytest.raises(ValueError, match=r"ssl_weight: expected more than 0, the study compares it with 0, got 0\.0"):
        study(worker, workspace, tmp_path, ssl_weight=0.0)
    with pytest.raises(ValueError, match=r"fractions: .* got \(0.0, 2\); split: .* got 'later'"):
        SslStudyConfig(fractions=(0.0, 2), split="later")
