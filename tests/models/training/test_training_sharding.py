"""Unpooled and pooled tables, split by tables, rows and columns, over one, two and three processes."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.training.distributed import process_group

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
def two(launch, tmp_path_factory):
    """What two processes left behind, and what they said."""
    folder = tmp_path_factory.mktemp("two")
    return folder, launch(*torchrun(2), folder, "two").stderr


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


def test_the_process_that_failed_tells_why(two):
    """To the other it is but a lost connection."""
    assert "process 1 of 2 failed" in two[1]
    assert "RuntimeError: planted on process 1" in two[1]
