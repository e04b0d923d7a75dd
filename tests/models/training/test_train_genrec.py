import dataclasses
import shutil

import pytest
import torch

from features.workspace import Workspace
from models.training.genrec import load_genrec, train_genrec
from models.training.genrec_run import KIND
from models.training.runs import MissingRunError, Runs

pytestmark = pytest.mark.integration

RANDOM_NDCG = sum(1 / torch.log2(torch.arange(2.0, 12.0))).item() / 12
"""Of a random order of 12 items, one of them relevant: its rank is 1 .. 12 with equal chance."""


@pytest.fixture(scope="module")
def shop(genrec_worker, tmp_path_factory):
    """A workspace and the one training run in it, and an untrained copy of the workspace."""
    folder = tmp_path_factory.mktemp("shop")
    workspace = genrec_worker.make_workspace(folder / "workspace")
    shutil.copytree(folder / "workspace", folder / "copy")
    training = train(genrec_worker, workspace)
    return workspace, training, folder / "copy"


def train(genrec_worker, workspace, progress=None):
    model, config = genrec_worker.MODEL, genrec_worker.TRAIN_CONFIG
    return train_genrec(workspace, model, config, seed=3, track=False, progress=progress)


def test_learns_the_planted_successors(shop):
    _, training, _ = shop
    assert training.pages == 24 * 6 + 6
    assert training.train.metrics["ndcg_at_10"] > 1.3 * RANDOM_NDCG
    assert training.train.losses[-1][1] < 0.6 * training.train.losses[0][1]
    assert training.lines()[0] == "GenRec: 4,368 parameters, 150 training pages (left out: nothing)"


def test_the_latest_run_loads_with_what_it_was_trained_from(shop):
    workspace, training, _ = shop
    model, run = load_genrec(workspace)
    assert not model.training
    assert (run.name, run.items, run.generation) == (training.run, 12, training.generation)
    assert (run.codes_per_level, run.seed) == ((4, 4), 3)
    by_name, _ = load_genrec(workspace, training.run)
    assert all(torch.equal(value, by_name.state_dict()[name]) for name, value in model.state_dict().items())


def test_time_gaps_that_training_never_met_stay_zero(shop):
    """By this `GenRec` tells them apart."""
    model, _ = load_genrec(shop[0])
    trained = model.page_gap_embedding.weight.any(dim=1)
    assert 0 < trained.sum() < len(trained)


def test_the_same_training_is_found_and_not_repeated(genrec_worker, shop):
    workspace, training, _ = shop
    told = []
    steps = Runs(workspace, KIND).folder(training.run) / "steps"
    steps.mkdir()  # as where it was killed after its last write
    again = train(genrec_worker, workspace, progress=told.append)
    assert not steps.exists()
    assert told == [f"run {training.run} is finished already"]
    assert again.train == training.train


def test_an_interrupted_training_goes_on_to_the_same_weights(genrec_worker, shop, tmp_path):
    workspace, training, untrained = shop
    shutil.copytree(untrained, tmp_path / "broken")
    broken = Workspace(tmp_path / "broken")
    with pytest.raises(ConnectionResetError):
        train(genrec_worker, broken, progress=break_at_step_40)
    with pytest.raises(MissingRunError, match="has no trained GenRec"):
        load_genrec(broken)
    told = []
    train(genrec_worker, broken, progress=told.append)
    assert "resumed at step 36 of 108" in told
    folders = [Runs(place, KIND).folder(training.run) for place in (workspace, broken)]
    assert (folders[0] / "weights.safetensors").read_bytes() == (folders[1] / "weights.safetensors").read_bytes()
    assert not (folders[1] / "steps").exists()


def break_at_step_40(line):
    if " step 40/" in line:
        raise ConnectionResetError


@pytest.mark.integration
def test_without_validation_pages_the_last_weights_are_used(genrec_worker, tmp_path):
    workspace = genrec_worker.make_workspace(tmp_path, validation=False)
    told = []
    training = train(genrec_worker, workspace, progress=told.append)
    assert any(line.startswith("no validation, the last weights will be used") for line in told)
    assert (training.train.best_step, training.train.metrics) == (None, {})


def test_an_unknown_monitor_is_refused_before_training(genrec_worker, shop):
    told = []
    config = dataclasses.replace(genrec_worker.TRAIN_CONFIG, monitor="hr_at_50")
    with pytest.raises(ValueError, match=r"^train.monitor: expected one of hr_at_10.*mrr_at_10, got 'hr_at_50'"):
        train_genrec(shop[0], genrec_worker.MODEL, config, seed=3, track=False, progress=told.append)
    assert not told


def test_a_run_that_is_not_there(shop):
    with pytest.raises(MissingRunError, match=f"no finished GenRec run 'other'.*finished runs: {shop[1].run}"):
        load_genrec(shop[0], "other")


def test_damaged_weights_are_refused(shop, tmp_path):
    shutil.copytree(shop[0].root, tmp_path / "damaged")
    workspace = Workspace(tmp_path / "damaged")
    weights = Runs(workspace, KIND).folder(shop[1].run) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load_genrec(workspace)
