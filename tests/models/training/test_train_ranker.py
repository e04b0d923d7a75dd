import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.workspace import Workspace
from models.ranker.model import UnifiedRanker
from models.training.ranker import train_ranker
from models.training.ranker_run import load_ranker
from models.training.reward_days import RewardDays
from models.training.runs import MissingRunError, Runs

pytestmark = pytest.mark.integration

WORKER = Path(__file__).with_name("ranker_worker.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", WORKER)


@pytest.fixture(scope="module")
def shop(ranker_worker, tmp_path_factory):
    """A workspace and the one training run in it, and an untrained copy of the workspace."""
    folder = tmp_path_factory.mktemp("shop")
    workspace = ranker_worker.make_workspace(folder / "workspace")
    shutil.copytree(folder / "workspace", folder / "copy")
    return workspace, train(ranker_worker, workspace), folder / "copy"


def train(ranker_worker, workspace, progress=None, **changes):
    model = dataclasses.replace(ranker_worker.MODEL, **changes)
    return train_ranker(workspace, model, ranker_worker.TRAIN_CONFIG, seed=3, track=False, progress=progress)


def test_learns_what_each_user_likes(shop):
    _, training, _ = shop
    assert (training.pages, training.candidates, training.drawn) == (40 * 8, 40 * 8 * 6, False)
    assert training.popularity_auc == pytest.approx(0.5, abs=0.1), "no category is liked by more users than another"
    assert training.train.metrics["auc"] > 0.8
    assert training.train.losses[-1][1] < 0.8 * training.train.losses[0][1]
    click = training.calibration[0]
    assert click.auc > training.popularity_auc + 0.25
    assert click.ratio_after == pytest.approx(1, abs=0.1)
    assert training.lines()[0].startswith("ranker: ")
    assert any(line.startswith("popularity alone: AUC 0.") for line in training.lines())


def test_every_parameter_was_trained(shop):
    workspace, training, _ = shop
    model, run = load_ranker(workspace)
    assert run.name == training.run
    assert not model.training
    torch.manual_seed(0)
    other = UnifiedRanker(run.model, run.layout, log_odds=run.log_odds)
    for name, value in model.state_dict().items():
        assert not torch.equal(value, other.state_dict()[name]), name


def test_the_same_training_is_found_and_not_repeated(ranker_worker, shop):
    workspace, training, _ = shop
    told = []
    again = train(ranker_worker, workspace, progress=told.append)
    assert told == [f"run {training.run} is finished already"]
    assert dataclasses.replace(again, tracking=training.tracking) == training


def test_an_interrupted_training_goes_on_to_the_same_weights(ranker_worker, shop, tmp_path):
    workspace, training, untrained = shop
    shutil.copytree(untrained, tmp_path / "broken")
    broken = Workspace(tmp_path / "broken")
    with pytest.raises(ConnectionResetError):
        train(ranker_worker, broken, progress=break_at_step_55)
    with pytest.raises(MissingRunError, match="has no trained ranker"):
        load_ranker(broken)
    told = []
    train(ranker_worker, broken, progress=told.append)
    assert "resumed at step 48 of 120" in told
    folders = [Runs(place, "ranker").folder(training.run) for place in (workspace, broken)]
    for file in ("weights.safetensors", "calibration.json"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def break_at_step_55(line):
    if " step 55/" in line:
        raise ConnectionResetError


@pytest.mark.slow
def test_two_processes_equal_one(launch, shop, tmp_path):
    shutil.copytree(shop[2], tmp_path / "two")
    done = launch(*TWO, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert ", 2 processes, " in done.stdout
    one, _ = load_ranker(shop[0])
    two, _ = load_ranker(Workspace(tmp_path / "two"))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-2, atol=1e-3, msg=name)


def test_negatives_are_drawn_where_the_log_holds_no_impressions(ranker_worker, tmp_path):
    workspace = ranker_worker.make_workspace(tmp_path, impressions=False)
    training = train(ranker_worker, workspace)
    assert training.drawn
    assert training.calibration[0].auc > 0.75
    assert training.calibration[0].ratio_after == pytest.approx(1, abs=0.15)
    assert "negatives are drawn negatives" in training.lines()[0]


def test_bad_configurations_fail_before_training(ranker_worker, shop):
    told = []
    with pytest.raises(ValueError, match=r"unknown shoe_size; known features: .*item_id.*user_id"):
        train(ranker_worker, shop[0], progress=told.append, features=("item_id", "shoe_size"))
    for monitor in ("ndcg_at_10", "logloss"):
        config = dataclasses.replace(ranker_worker.TRAIN_CONFIG, monitor=monitor)
        message = rf"ranker_train.monitor: expected one of auc, auc_cart, auc_purchase, got '{monitor}'"
        with pytest.raises(ValueError, match=message):
            train_ranker(shop[0], ranker_worker.MODEL, config, seed=3, track=False)
    assert not told


def reward_of(ranker_worker, workspace):
    days = RewardDays.of(np.repeat(np.arange(8), 40) * ranker_worker.DAY, 0.5)
    assert (days.calibrated_from, days.aligned_from) == (3 * ranker_worker.DAY, 4 * ranker_worker.DAY)
    config = dataclasses.replace(ranker_worker.TRAIN_CONFIG, epochs=2)
    return train_ranker(workspace, ranker_worker.MODEL, config, seed=3, reward=days, track=False)


def test_a_reward_model_knows_nothing_of_the_days_it_rewards(ranker_worker, shop, tmp_path):
    """Other clicks on later pages, validation included, make the same reward model."""
    first = Workspace(shutil.copytree(shop[2], tmp_path / "first"))
    training = reward_of(ranker_worker, first)
    assert (training.pages, training.train.metrics["auc"] > 0.6) == (3 * 40, True)
    with pytest.raises(MissingRunError, match="has no trained ranker"):
        load_ranker(first)
    _, run = load_ranker(first, training.run, "reward")
    assert run.calibration.slopes != (1.0, 1.0, 1.0)

    other = Workspace(shutil.copytree(shop[2], tmp_path / "other"))
    table = other.table("sequences")
    rows = table.read().to_pylist()
    for row in rows:
        kept = sum(row["page_lengths"][:4]) if row["split"] == "train" else 0
        row["events"] = row["events"][:kept] + [0 if event else 1 for event in row["events"][kept:]]
    table.commit([table.write_part(pa.Table.from_pylist(rows, schema=table.schema), shard=0)])
    again = reward_of(ranker_worker, other)
    assert again.run != training.run
    folders = [Runs(place, "reward").folder(name) for place, name in ((first, training.run), (other, again.run))]
    assert (folders[0] / "weights.safetensors").read_bytes() == (folders[1] / "weights.safetensors").read_bytes()
    assert load_ranker(other, again.run, "reward")[1].calibration == run.calibration


@pytest.mark.parametrize(
    ("moments", "parted"), [([0, 1, 2, 3], (1, 2)), ([0, 0, 0, 5, 9], (5, 9)), ([0, 1, 2], (1, 2))]
)
def test_reward_days_are_moments_where_there_are_not_three_days(moments, parted):
    days = RewardDays.of(np.array(moments), 0.5)
    assert (days.calibrated_from, days.aligned_from) == parted


def test_two_moments_are_too_few_for_a_reward_model():
    with pytest.raises(ValueError, match=r"three moments or more.*got 2; align on a longer log"):
        RewardDays.of(np.array([4, 4, 7]), 0.5)
