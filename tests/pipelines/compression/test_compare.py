"""The comparison end to end on small films, its baselines by hand, its files, its mistakes; real samples load."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from models.compression.config import METHODS
from models.compression.layouts import Field
from pipelines.compression.baselines import PRIOR_EXAMPLES, logistic_regression, popularity_prior
from pipelines.compression.compare import compare
from pipelines.compression.config import CompareConfig
from pipelines.compression.examples import Part, SplitExamples, load_examples, split_by_time
from pipelines.compression.report import ComparisonReport, seed_interval

SMALL = CompareConfig(width=4, hidden=(16,), batch_size=128, learning_rate=0.01, max_epochs=6, budgets=(1 / 2, 1 / 4))


@pytest.fixture(scope="module")
def report(films: Path, tmp_path_factory: pytest.TempPathFactory) -> ComparisonReport:
    return compare(SMALL, films, tmp_path_factory.mktemp("results"), seeds=(1, 2))


@pytest.mark.integration
def test_every_cell_is_there_within_its_budget(report: ComparisonReport):
    cells = [(method, share) for method in METHODS[1:] for share in (1 / 2, 1 / 4)]
    baselines = [("logistic_regression", None), ("popularity_prior", None)]
    assert report.cells() == [*baselines, ("collisionless", None), *cells]
    assert len(report.runs) == 2 + 2 * 9
    for run in report.runs[2:]:
        assert run.bytes <= report.collisionless_bytes * (run.share or 1)
        assert run.bytes > report.collisionless_bytes * (run.share or 1) - 4 * 4


def test_the_planted_taste_is_found_by_crosses_alone(report: ComparisonReport):
    assert report.interval("collisionless", None, "auc").mean > 0.85
    assert report.interval("logistic_regression", None, "auc").mean < 0.6
    assert report.interval("collisionless", None, "log_loss").mean < 0.5
    assert report.interval("collisionless", None, "calibration_ratio").mean == pytest.approx(1, abs=0.15)


def test_the_same_seed_gives_the_same_figures(report: ComparisonReport, films: Path, tmp_path: Path):
    one = CompareConfig(**{**vars(SMALL), "methods": ("multiplexed",), "budgets": (1 / 4,)})
    lines: list[str] = []
    again = compare(one, films, tmp_path / "new" / "folder", seeds=(2,), progress=lines.append)
    assert again.values("multiplexed", 1 / 4, "auc") == report.values("multiplexed", 1 / 4, "auc")[1:]
    assert [line.split(":")[0].split(", setting")[0] for line in lines] == [
        "logistic_regression",
        "popularity_prior",
        "seed 2, multiplexed 1/4",
    ]


def test_files_hold_the_runs(report: ComparisonReport):
    content = json.loads((report.folder / "comparison.json").read_text())
    assert content["vocabularies"]["item_id"] == 40
    assert content["runs"][-1]["auc"] == report.runs[-1].auc
    rows = list(csv.DictReader((report.folder / "comparison.csv").open()))
    assert [float(row["auc"]) for row in rows] == [run.auc for run in report.runs]
    assert (report.folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (report.folder / "comparison.txt").read_text().splitlines() == report.lines()


def test_lines_show_each_cell_and_what_multiplexing_gains(report: ComparisonReport):
    text = "\n".join(report.lines())
    assert "2,160 train, 270 validation, 270 test; seeds 1, 2" in text
    assert "multi_probe            1/4" in text
    gain = report.difference("multiplexed", 1 / 4)
    pairs = zip(report.values("multiplexed", 1 / 4, "auc"), report.values("per_feature", 1 / 4, "auc"), strict=True)
    assert gain.mean == pytest.approx(np.mean([one - other for one, other in pairs]))
    assert f"AUC of multiplexed minus per_feature at 1/4: {gain.mean:+.4f}" in text


def test_intervals_by_hand():
    # Student's t with 4 degrees of freedom: 2.7764; deviation sqrt(2.5), over sqrt(5)
    interval = seed_interval([1, 2, 3, 4, 5])
    assert (interval.mean, interval.high - 3) == (3, pytest.approx(2.7764 * np.sqrt(2.5 / 5), rel=1e-4))


def split_of(train: list[int], labels: list[int], later: list[int], later_labels: list[int]) -> SplitExamples:
    parts = [
        Part(columns={"item": np.array(values, np.uint64)}, label_E=np.array(label, np.float32))
        for values, label in ((train, labels), (later, later_labels))
    ]
    field = Field(name="item", values_V=np.unique(parts[0].columns["item"]))
    return SplitExamples(fields=(field,), train=parts[0], validation=parts[1], test=parts[1], item_field="item")


def test_the_prior_is_the_smoothed_rate():
    split = split_of([5, 5, 5, 8], [1, 1, 0, 0], [5, 8, 9], [1, 0, 1])
    prior = popularity_prior(split, "item")
    n = prior.setting
    assert n in PRIOR_EXAMPLES
    assert prior.test_E.tolist() == pytest.approx([(2 + n / 2) / (3 + n), (n / 2) / (1 + n), 0.5])


def test_logistic_regression_gives_unknown_values_the_base_rate():
    split = split_of([5, 8] * 50, [1, 0] * 50, [5, 8, 9], [1, 0, 1])
    result = logistic_regression(split)
    known, other, unknown = result.test_E
    assert known > 0.9
    assert other < 0.1
    assert unknown == pytest.approx(0.5, abs=0.01)
    assert result.bytes == (2 + 1) * 4


def test_mistakes_are_told(films: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"dataset: .*got 'netflix'; methods: .*got robe; budgets: .*got \(2,\)"):
        CompareConfig(dataset="netflix", methods=("robe",), budgets=(2,))
    with pytest.raises(ValueError, match=r"width: .*got 0"):
        CompareConfig(width=0, probes=1)
    with pytest.raises(ValueError, match="probes: expected a divisor of the width 30, got 4"):
        CompareConfig(probes=4)
    with pytest.raises(ValueError, match=r"each once, got \[1, 1\]"):
        compare(SMALL, films, tmp_path, seeds=(1, 1))
    with pytest.raises(ValueError, match=r"from 0, each once, got \[-1\]"):
        compare(SMALL, films, tmp_path, seeds=(-1,))
    tiny = CompareConfig(**{**vars(SMALL), "budgets": (1 / 100,)})
    lines: list[str] = []
    with pytest.raises(ValueError, match="per_feature: expected a budget of at least"):
        compare(tiny, films, tmp_path, seeds=(1,), progress=lines.append)
    assert not lines


@pytest.mark.integration
@pytest.mark.parametrize(
    ("dataset", "folder", "fields", "rows"),
    [
        ("movielens-100k", "movielens", 8, 72_855),
        ("mind", "mind_small_sample", 5, 189_359),
        ("criteo", "ctr_small", 39, 7_200),
        ("avazu", "ctr_small", 22, 8_087),
    ],
)
def test_real_samples_run_one_epoch(real_data: Path, tmp_path: Path, dataset: str, folder: str, fields: int, rows: int):
    config = CompareConfig(dataset=dataset, methods=("multiplexed",), budgets=(1 / 4,), width=8, max_epochs=1)
    split = split_by_time(load_examples(dataset, real_data / folder))
    assert len(split.fields) == fields
    assert sum(len(part.label_E) for part in (split.train, split.validation, split.test)) == rows
    report = compare(config, real_data / folder, tmp_path, seeds=(1,))
    assert 0.3 < report.runs[-1].auc < 1
