import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from features.definitions import PAGE_FEATURES
from features.workspace import Workspace
from models.inputs.items import item_columns
from models.recommend.catalogue import plain_catalogue
from models.recommend.requests import requests_from_sequences
from models.training.loop import train
from models.training.runs import MissingRunError, Runs
from models.training.two_tower import exact_metrics, load_two_tower, train_two_tower
from models.training.two_tower_run import KIND, read_item_vectors

pytestmark = pytest.mark.integration

PATH = Path(__file__).with_name("two_tower_worker.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", PATH)


@pytest.fixture(scope="module")
def worker():
    """The module `two_tower_worker.py` beside this file."""
    spec = importlib.util.spec_from_file_location("two_tower_worker", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(worker, workspace, progress=None, **options):
    config = dataclasses.replace(worker.CONFIG, **options)
    return train_two_tower(workspace, config, worker.TRAIN_CONFIG, seed=3, track=False, progress=progress)


@pytest.fixture(scope="module")
def trained(worker, tmp_path_factory):
    """A workspace with one training run, and an untrained copy of the workspace."""
    folder = tmp_path_factory.mktemp("shop")
    workspace = worker.make_workspace(folder / "workspace")
    shutil.copytree(folder / "workspace", folder / "copy")
    return workspace, run(worker, workspace), folder / "copy"


def test_learns_the_planted_successors(trained):
    _, training, _ = trained
    # all 24 items are equally popular: popularity hits with 10 of them in 10/24 of the cases
    assert training.train.metrics["hr_at_10"] > 2 * 10 / 24
    assert training.train.metrics["hr_at_50"] == 1.0
    assert training.train.losses[-1][1] < 0.7 * training.train.losses[0][1]
    assert (training.pages, training.examples) == (216, 252)
    assert training.lines()[0].endswith("252 examples on 216 training pages (left out: nothing)")


def test_the_run_loads_with_its_item_vectors_and_measures_the_same(trained):
    workspace, training, _ = trained
    model, record = load_two_tower(workspace)
    assert (record.name, record.items, model.width) == (training.run, 24, 8)
    ids, vectors_ND = read_item_vectors(Path(training.folder))
    assert ids.to_pylist() == [f"i{number:02d}" for number in range(24)]
    assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(vectors_ND, model.known_item_vectors())
    table = workspace.table("clean_items").read()
    np.testing.assert_allclose(model.item_vectors(item_columns(table)), vectors_ND, atol=1e-6)
    catalogue = plain_catalogue(ids.to_pylist())
    cases = requests_from_sequences(workspace, catalogue, "validation", max_history=3)
    assert exact_metrics(model, cases, catalogue) == pytest.approx(training.train.metrics, abs=1e-6)
    with pytest.raises(ValueError, match="expected a catalogue of the items the model knows"):
        exact_metrics(model, cases, plain_catalogue(ids.to_pylist()[1:]))


def test_the_same_training_is_found(worker, trained):
    workspace, training, _ = trained
    told = []
    again = run(worker, workspace, told.append)
    assert told == [f"run {training.run} is finished already"]
    assert again == dataclasses.replace(training, tracking=[])


def test_other_features_of_pages_make_another_run(worker, trained, tmp_path):
    shutil.copytree(trained[0].local_path(), tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    worker.commit(workspace, PAGE_FEATURES, workspace.table(PAGE_FEATURES).schema.empty_table())
    with pytest.raises(ConnectionResetError):
        run(worker, workspace, break_off_unless_finished)


def break_off_unless_finished(line: str) -> None:
    if not line.endswith("is finished already"):
        raise ConnectionResetError(line)


def test_an_interrupted_training_goes_on_to_the_same_weights(worker, trained, tmp_path):
    """The estimate of frequencies included: it is part of the weights."""
    workspace, training, untrained = trained
    shutil.copytree(untrained, tmp_path / "broken")
    broken = Workspace(tmp_path / "broken")
    with pytest.raises(ConnectionResetError):
        run(worker, broken, break_at_step_40)
    with pytest.raises(MissingRunError, match="has no trained two-tower model"):
        load_two_tower(broken)
    told = []
    run(worker, broken, told.append)
    assert any(line.startswith("resumed at step 35 of ") for line in told)
    whole = (Runs(workspace, KIND).folder(training.run) / "manifest.json").read_bytes()
    resumed = (Runs(broken, KIND).folder(training.run) / "manifest.json").read_bytes()
    same = [json.loads(manifest)["files"]["weights.safetensors"] for manifest in (whole, resumed)]
    assert same[0] == same[1]


def break_at_step_40(line: str) -> None:
    if " step 40/" in line:
        raise ConnectionResetError(line)


def test_without_validation_pages_the_last_weights_are_used(worker, tmp_path):
    told = []
    training = run(worker, worker.make_workspace(tmp_path, validation=False), told.append, ssl_weight=0.0)
    assert any(line.startswith("no validation, the last weights will be used") for line in told)
    assert training.train.metrics == {}


def test_items_that_are_only_ids_train_without_the_self_supervised_task(worker, tmp_path):
    told = []
    workspace = worker.make_workspace(tmp_path, validation=False)
    alone = {"item_features": ("item_id",), "history_features": ("item_id",)}
    supervised = run(worker, workspace, told.append, ssl_weight=0.5, **alone)
    assert any(line.startswith("no self-supervised task: ") and line.endswith("only item_id") for line in told)
    assert supervised.run == run(worker, workspace, ssl_weight=0.0, **alone).run


def test_unknown_features_are_refused_before_training(worker, trained):
    with pytest.raises(ValueError, match="user_features: unknown plan; known: history_length, hour, recency, user_id"):
        run(worker, trained[0], user_features=("plan",))


def test_an_unknown_monitor_is_refused_before_training(worker, trained):
    told = []
    config = dataclasses.replace(worker.TRAIN_CONFIG, monitor="auc")
    with pytest.raises(ValueError, match=r"two_tower_train.monitor: expected one of hr_at_10.*mrr_at_50, got 'auc'"):
        train_two_tower(trained[0], worker.CONFIG, config, seed=3, track=False, progress=told.append)
    assert not told


@pytest.fixture(scope="module")
def two_processes(worker, trained, launch, tmp_path_factory):
    """A folder with what two processes trained."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(trained[2], folder / "workspace")
    done = launch(*TWO, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one_that_takes_both_batches(worker, two_processes, tmp_path):
    """Negatives are each process's own, so the one process averages two losses instead of taking one larger batch."""
    both = worker.BothShares(worker.make_net(worker.CONFIG))
    train(both, worker.BothSources(worker.CONFIG), worker.SHORT, checkpoints=tmp_path, seed=1)
    expected = both.net.state_dict()
    found = load_file(two_processes / "two.safetensors")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=2e-4, msg=name)
    gaps = [load_file(two_processes / f"frequency{rank}.safetensors")["bucket"] for rank in range(2)]
    assert torch.equal(*gaps)


@pytest.mark.slow
def test_two_processes_publish_a_run_that_learned(two_processes):
    model, record = load_two_tower(Workspace(two_processes / "workspace"))
    report = Runs(Workspace(two_processes / "workspace"), KIND).read_report(record.name)
    assert report.processes == 2
    assert report.metrics["hr_at_10"] > 2 * 10 / 24
    assert not model.net.training
