"""Runs in processes of their own: killed ones, and two at once under torchrun."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.training.checkpoints import Checkpoints
from models.training.distributed import process_group
from models.training.export import full_state
from models.training.loop import train

pytestmark = pytest.mark.integration
WORKER = Path(__file__).with_name("worker.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", WORKER)


def test_a_killed_run_goes_on_to_the_bit(launch, worker, tmp_path):
    died = launch(WORKER, tmp_path, "killed")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert Checkpoints(tmp_path / "killed").progress()["step"] == 9
    config = dataclasses.replace(worker.CONFIG, ema_decay=0.9, checkpoint_every_steps=3)
    states, reports = [], []
    with process_group(worker.CPU):
        for name in ("killed", "straight"):
            model = worker.sharded(dropout=0.2)
            reports.append(train(model, worker.Source(), config, checkpoints=tmp_path / name, seed=1))
            states.append(full_state(model))
    assert reports[0].losses == reports[1].losses
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture(scope="module")
def two(launch, worker, tmp_path_factory):
    """What one process did, and two after it: alone, and going on from the first one's checkpoint at step 12."""
    folder = tmp_path_factory.mktemp("two")
    one = worker.sharded()
    with process_group(worker.CPU):
        report = train(one, worker.Source(), worker.CONFIG, checkpoints=folder / "one", seed=1)
        state = full_state(one)
        stop_at_12 = InterruptedSource(worker, 12)
        with pytest.raises(KeyboardInterrupt):
            train(worker.sharded(), stop_at_12, worker.CONFIG, checkpoints=folder / "one_to_two", seed=1)
    done = launch(*TWO, folder, "two")
    assert done.returncode == 0, done.stderr
    return folder, report, state


class InterruptedSource:
    """Presses Ctrl-C while it hands out the batch of a step."""

    def __init__(self, worker, step):
        self.inner, self.step = worker.Source(), step
        self.steps_per_epoch = self.inner.steps_per_epoch

    def iterate(self, epoch, start_step):
        for step, batch in enumerate(self.inner.iterate(epoch, start_step), epoch * self.steps_per_epoch + start_step):
            if step + 1 == self.step:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


@pytest.mark.parametrize("name", ["two", "one_to_two"])
def test_two_processes_train_as_one_does(two, name):
    folder, report, state = two
    result = load_file(folder / f"{name}.safetensors")
    assert result.pop("losses").tolist() == pytest.approx([loss for _, loss in report.losses], rel=1e-5)
    assert result.keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(result[key], value, rtol=1e-4, atol=1e-6)


def test_two_processes_split_large_tables_and_say_so(two):
    told = (two[0] / "two.txt").read_text()
    assert "table item: 21 x 4 (0.0 MB), row_wise on [0, 1], kernel fused" in told
    assert "table user: 5 x 4 (0.0 MB), table_wise on [0], kernel fused" in told
    assert "2 processes" in told
    assert "resumed at step 12 of 15" in (two[0] / "one_to_two.txt").read_text()


def test_one_process_goes_on_from_a_checkpoint_of_two(worker, two):
    """One more epoch, from what two processes saved and from what one saved: the same steps."""
    folder = two[0]
    saved = Checkpoints(folder / "two").progress()
    assert (saved["step"], saved["processes"]) == (15, 2)
    config = dataclasses.replace(worker.CONFIG, epochs=4)
    with process_group(worker.CPU):
        reports = [
            train(worker.sharded(), worker.Source(), config, checkpoints=folder / name, seed=1)
            for name in ("one", "two")
        ]
    assert [report.steps for report in reports] == [20, 20]
    assert [loss for _, loss in reports[1].losses] == pytest.approx([loss for _, loss in reports[0].losses], rel=1e-5)


def test_unequal_numbers_of_batches_are_refused_everywhere(two):
    for rank in range(2):
        assert "expected the same on every process, got [5, 6]" in (two[0] / f"uneven{rank}.txt").read_text()
