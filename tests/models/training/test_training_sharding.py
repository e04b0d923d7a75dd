"""Unpooled and pooled tables, split by tables, rows and columns, over one, two and three processes."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from features.workspace import Workspace
from models.training.distributed import process_group
from models.training.genrec import load_genrec, train_genrec

pytestmark = pytest.mark.integration
WORKER = Path(__file__).with_name("sharding_worker.py")


def torchrun(processes):
    return "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", WORKER


@pytest.fixture(scope="module")
def straight(sharding_worker, tmp_path_factory):
    """By optimiser, what plain torch does in one process: after one epoch, and after another."""
    folder = tmp_path_factory.mktemp("plain")
    return {
        optimizer: [
            sharding_worker.trained(sharding_worker.plain(), folder / optimizer, f"{optimizer}-table", epochs)
            for epochs in (1, 2)
        ]
        for optimizer in sharding_worker.OPTIMIZERS
    }


@pytest.fixture(scope="module")
def two(launch, genrec_worker, tmp_path_factory):
    """What two processes left behind, and what they said."""
    folder = tmp_path_factory.mktemp("two")
    genrec_worker.make_workspace(folder / "shop")
    return folder, launch(*torchrun(2), folder, "two")


def agree(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)


def test_two_processes_train_as_plain_tables_do_in_one(sharding_worker, straight, two):
    for case in sharding_worker.CASES:
        agree(load_file(two[0] / f"{case}.safetensors"), straight[case.split("-")[0]][0])


@pytest.mark.parametrize("case", ["adagrad-column", "rowwise_adagrad-row"])
def test_an_interrupted_run_of_two_processes_goes_on_to_the_bit(two, case):
    states = [load_file(two[0] / f"{case}-{name}.safetensors") for name in ("straight", "broken")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_one_process_goes_on_from_two_under_any_placement(sharding_worker, straight, two, tmp_path):
    with process_group(sharding_worker.CPU):
        for case in sharding_worker.CASES:
            optimizer = case.split("-")[0]
            for placement in sharding_worker.OPTIMIZERS[optimizer]:
                place = tmp_path / f"{case}-to-{placement}"
                shutil.copytree(two[0] / case, place)
                state = sharding_worker.trained(sharding_worker.sharded(), place, f"{optimizer}-{placement}", epochs=2)
                agree(state, straight[optimizer][1])


@pytest.mark.slow
def test_three_processes_go_on_from_two_under_another_placement(sharding_worker, launch, straight, two):
    done = launch(*torchrun(3), two[0], "go_on")
    assert done.returncode == 0, done.stderr
    for case, other in sharding_worker.NEXT.items():
        agree(load_file(two[0] / f"{case}-to-{other}.safetensors"), straight[case.split("-")[0]][1])


def test_two_processes_train_one_genrec(genrec_worker, two):
    workspace, said = Workspace(two[0] / "shop"), two[1].stdout
    model, run = load_genrec(workspace)
    assert "trained 48 steps (12.0 epochs)" in said, two[1].stderr
    assert ", 2 processes, " in said
    assert said.count("epoch 2/12 step 5/48") == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())
    # one process alone finds it: it is the same training
    told = []
    config = genrec_worker.TRAIN_CONFIG
    train_genrec(workspace, genrec_worker.MODEL, config, seed=3, track=False, progress=told.append)
    assert told == [f"run {run.name} is finished already"]


def test_the_process_that_failed_tells_why(two):
    """To the other it is but a lost connection."""
    assert "process 1 of 2 failed" in two[1].stderr
    assert "RuntimeError: planted on process 1" in two[1].stderr
