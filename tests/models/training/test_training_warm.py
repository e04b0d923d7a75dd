"""Trainings that start from the last run's weights: when they do, when not, and what they find again."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from features.schemas import SEQUENCES, TRAIN
from features.workspace import Workspace
from models.training.config import TrainConfig
from models.training.genrec import train_genrec
from models.training.position import TrainReport
from models.training.ranker import train_ranker
from models.training.runs import WEIGHTS, Runs
from models.training.two_tower import train_two_tower
from models.training.warm import find_start, load_fitting, matched_rows

DAY = 86_400_000
LOOP = TrainConfig(epochs=4, warm_start=0.5)
REPORT = TrainReport(
    steps=1,
    epochs=1.0,
    examples=1,
    seconds=1.0,
    losses=[],
    metrics={},
    best_step=None,
    stopped="epochs",
    peak_rss_mb=1.0,
    processes=1,
)


def document(day: int, **changes) -> dict:
    split = {"protocol": "time", "validation_ms": day * DAY}
    return {"model": {"width": 8}, "generation": "1-a", "sequences": f"s{day}", "split": split, **changes}


def start(workspace: Workspace, config: dict, loop: TrainConfig = LOOP, **options):
    said: list[str] = []
    found = find_start(workspace, "ranker", loop, config, vary=("sequences",), say=said.append, **options)
    return found, said


@pytest.fixture
def workspace(tmp_path):
    """With a finished run `first`, trained until day 5."""
    workspace = Workspace(tmp_path)
    Runs(workspace, "ranker").write("first", document(5), {WEIGHTS: b""}, REPORT)
    return workspace


def test_added_days_start_from_the_last_run(workspace):
    found, said = start(workspace, document(6))
    assert (found.warm_from, found.train.epochs, said) == ("first", 2, ["starts from the weights of run first"])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (document(6, generation="2-b"), "changed: generation"),
        (document(6, model={"width": 16}, seed=1), "changed: model, seed"),
        (document(4), "it has learned pages that are held out now"),
        (document(6, split={"protocol": "leave_one_out", "validation_ms": None}), "splits by time tell"),
        (document(6, split=None), "it is not known that it has learned no page that is held out now"),
    ],
)
def test_whatever_else_changed_starts_anew_and_says_why(workspace, config, reason):
    found, said = start(workspace, config)
    assert (found.warm_from, found.train.epochs) == (None, 4)
    assert said[0].startswith("from new weights, not those of run first: ")
    assert reason in said[0]


def test_weights_that_do_not_fit_are_left_alone(workspace):
    found, said = start(workspace, document(6), fits=lambda run: "other features: brand")
    assert found.warm_from is None
    assert said == ["from new weights, not those of run first: other features: brand"]


def test_it_is_off_by_default_and_without_an_earlier_run(workspace, tmp_path):
    assert start(workspace, document(6), TrainConfig())[0].warm_from is None
    found, said = start(Workspace(tmp_path / "other"), document(6))
    assert (found.warm_from, found.train.epochs, said) == (None, 4, [])


def test_the_same_training_is_told_where_it_started(workspace):
    runs = Runs(workspace, "ranker")
    assert start(workspace, document(5))[0].warm_from is None
    runs.write("second", document(6, warm_from="first"), {WEIGHTS: b""}, REPORT)
    found, said = start(workspace, document(6))
    assert (found.warm_from, found.train.epochs, said) == ("first", 2, [])
    assert start(workspace, document(7))[0].warm_from == "second"


def test_tables_grow_around_the_rows_that_are_known(tmp_path):
    before, now = np.array([3, 5, 9], np.uint64), np.array([1, 3, 9, 12], np.uint64)
    table = nn.Embedding(4, 2)
    nn.init.constant_(table.weight, 7.0)
    save_file({"weight": torch.arange(6.0).reshape(3, 2)}, tmp_path / "weights")
    load_fitting(table, tmp_path / "weights", {"weight": matched_rows(now, before)})
    assert table.weight.tolist() == [[7.0, 7.0], [0.0, 1.0], [4.0, 5.0], [7.0, 7.0]]
    with pytest.raises(ValueError, match=r"expected weight of shape \(4, 2\), got \(3, 2\)"):
        load_fitting(table, tmp_path / "weights")


def test_a_share_of_no_epochs_is_refused():
    with pytest.raises(ValueError, match=r"warm_start: expected 0 < share <= 1 or none, got 0\.0"):
        TrainConfig(warm_start=0.0)


def load(name: str):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


def until(workspace: Workspace, day: int) -> None:
    """Say that training ends with a day, and let one user see one more page on it."""
    table = workspace.table("sequences")
    rows = table.read().to_pylist()
    seen = next(row for row in rows if row["split"] == TRAIN)
    extra = {name: seen[name][-1:] for name in ("page_times", "items", "events", "times")}
    rows.append({**seen, **extra, "user_id": f"new{day}", "page_ids": [f"p{day}"], "page_lengths": [1]})
    notes = {"split": {"protocol": "time", "validation_ms": day * DAY}}
    table.commit([table.write_part(pa.Table.from_pylist(rows, schema=SEQUENCES), shard=0)], notes=notes)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["two_tower", "ranker", "genrec"])
def test_every_model_goes_on_with_one_more_day(kind, tmp_path):
    worker = load(f"{kind}_worker")
    train = {"two_tower": train_two_tower, "ranker": train_ranker, "genrec": train_genrec}[kind]
    model = worker.CONFIG if kind == "two_tower" else worker.MODEL
    loop = dataclasses.replace(worker.TRAIN_CONFIG, epochs=2, evaluate_every_epochs=2, warm_start=0.5)
    workspace, said = worker.make_workspace(tmp_path), []

    def trained():
        return train(workspace, model, loop, seed=3, track=False, progress=said.append)

    until(workspace, 5)
    first = trained()
    until(workspace, 6)
    second = trained()
    assert f"starts from the weights of run {first.run}" in said
    assert Runs(workspace, kind).open(second.run).config["warm_from"] == first.run
    assert (first.train.epochs, second.train.epochs) == (2, 1)
    assert second.train.losses[0][1] < first.train.losses[0][1]
    assert trained().run == second.run
    assert f"run {second.run} is finished already" in said
