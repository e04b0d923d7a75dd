import dataclasses
import json
import os
import signal

import pytest
import torch

from models.training.distributed import process_group
from models.training.export import full_state
from models.training.loop import train


def losses(report):
    return [loss for _, loss in report.losses]


def test_learns_what_is_planted_and_changes_every_parameter(worker, tmp_path):
    model = worker.plain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = []
    config = dataclasses.replace(worker.CONFIG, epochs=30, log_every_steps=5)
    report = train(model, worker.Source(), config, checkpoints=tmp_path, seed=1, progress=told.append)
    assert report.losses[-1][1] < 0.2 * report.losses[0][1]
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (report.steps, report.epochs, report.examples, report.stopped) == (150, 30.0, 1200, "epochs")
    assert told[0].startswith("epoch 1/30 step 5/150 loss ")
    assert "examples/s ETA" in told[0]
    assert "peak RSS" in told[0]
    assert report.lines()[0].startswith("trained 150 steps (30.0 epochs)")


def test_resume_takes_the_same_steps_to_the_bit(worker, tmp_path):
    config = dataclasses.replace(worker.CONFIG, ema_decay=0.9, log_every_steps=2)
    straight, interrupted = worker.plain(0.2), worker.plain(0.2)
    expected = train(straight, worker.Source(), config, checkpoints=tmp_path / "a", seed=1)

    class Interrupted(worker.Source):
        def iterate(self, epoch, start_step):
            for step, batch in enumerate(super().iterate(epoch, start_step), start_step):
                if (epoch, step) == (1, 2):
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    with pytest.raises(KeyboardInterrupt):
        train(interrupted, Interrupted(), config, checkpoints=tmp_path / "b", seed=1)
    resumed = worker.plain(0.2)
    report = train(resumed, worker.Source(), config, checkpoints=tmp_path / "b", seed=1)
    assert report.losses == expected.losses
    assert report.examples == expected.examples
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_finished_run_called_again_only_restores_its_weights(worker, tmp_path):
    model, again = worker.plain(), worker.plain()
    report = train(model, worker.Source(), worker.CONFIG, checkpoints=tmp_path, seed=1)
    repeated = train(again, worker.Source(kill_before=0), worker.CONFIG, checkpoints=tmp_path, seed=1)
    assert repeated.losses == report.losses
    assert torch.equal(model.head.weight, again.head.weight)


def test_sharded_training_equals_plain_training(worker, tmp_path):
    """FBGEMM's fused row-wise Adagrad and ours take the same steps."""
    plain, sharded = worker.plain(), worker.sharded()
    expected = train(plain, worker.Source(), worker.CONFIG, checkpoints=tmp_path / "plain", seed=1)
    with process_group(worker.CPU):
        told = []
        report = train(
            sharded, worker.Source(), worker.CONFIG, checkpoints=tmp_path / "x", seed=1, progress=told.append
        )
        state = full_state(sharded)
    assert told[0] == "table item: 21 x 4 (0.0 MB), table_wise on [0], kernel fused"
    assert told[1] == "table user: 5 x 4 (0.0 MB), table_wise on [0], kernel fused"
    assert losses(report) == pytest.approx(losses(expected), rel=1e-5)
    assert state.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)


def test_the_best_evaluation_chooses_the_weights_and_patience_stops(worker, tmp_path):
    qualities = iter([0.1, 0.5, 0.3, 0.4])
    seen = []

    def evaluate(model):
        assert not model.training
        seen.append(model.head.weight.clone())
        torch.rand(1)
        return {"quality": next(qualities), "other": 1.0}

    model = worker.plain()
    config = dataclasses.replace(worker.CONFIG, epochs=20, patience=2, ema_decay=0.5)
    report = train(model, worker.Source(), config, checkpoints=tmp_path, seed=1, evaluate=evaluate)
    assert (report.stopped, report.best_step, report.steps) == ("patience", 10, 20)
    assert report.metrics == {"quality": 0.5, "other": 1.0}
    assert torch.equal(model.head.weight, seen[1])
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000010", "step-00000016", "step-00000020"]


def test_evaluation_does_not_change_the_course_of_training(worker, tmp_path):
    without = train(worker.plain(0.2), worker.Source(), worker.CONFIG, checkpoints=tmp_path / "a", seed=1)
    evaluate = lambda model: {"quality": float(torch.rand(1))}  # noqa: E731
    with_it = train(
        worker.plain(0.2), worker.Source(), worker.CONFIG, checkpoints=tmp_path / "b", seed=1, evaluate=evaluate
    )
    assert without.losses == with_it.losses


def test_an_evaluation_without_the_monitored_metric(worker, tmp_path):
    with pytest.raises(ValueError, match=r"metrics \['loss'\], got 'quality'"):
        train(
            worker.plain(),
            worker.Source(),
            worker.CONFIG,
            checkpoints=tmp_path,
            seed=1,
            evaluate=lambda model: {"loss": 1.0},
        )


def test_a_time_budget_ends_the_run_and_its_schedule(worker, tmp_path):
    config = dataclasses.replace(worker.CONFIG, epochs=10**6, max_seconds=0.05, schedule="linear")
    report = train(worker.plain(), worker.Source(), config, checkpoints=tmp_path, seed=1)
    assert report.stopped == "max_seconds"
    assert report.seconds >= 0.05


def test_a_loss_that_is_not_finite_stops_the_run(worker, tmp_path):
    model = worker.plain()
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="got loss nan and gradient_norm nan up to step 1; lower"):
        train(model, worker.Source(), worker.CONFIG, checkpoints=tmp_path, seed=1)


def test_weights_that_are_not_finite_are_never_saved(worker, tmp_path):
    """Whatever is due first: a checkpoint every other step, or the end of an epoch; log lines come later."""
    config = dataclasses.replace(worker.CONFIG, log_every_steps=100, checkpoint_every_steps=2, gradient_clip=None)
    with pytest.raises(FloatingPointError, match=r"got loss nan up to step 4; lower"):
        train(worker.plain(), Spoilt(worker.Source(), 2), config, checkpoints=tmp_path, seed=1)
    assert json.loads((tmp_path / "LATEST").read_text()) == {"name": "step-00000002"}
    config = dataclasses.replace(config, checkpoint_every_steps=100)
    evaluated, source = [], Spoilt(worker.Source(), 2)
    with pytest.raises(FloatingPointError, match=r"got loss nan up to step 5; lower"):
        train(worker.plain(), source, config, checkpoints=tmp_path / "b", seed=1, evaluate=evaluated.append)
    assert evaluated == []


class Spoilt:
    """A source whose batch of one step has a target that is not a number."""

    def __init__(self, source, step):
        self.source, self.step, self.steps_per_epoch = source, step, source.steps_per_epoch

    def iterate(self, epoch, start_step):
        for step, batch in enumerate(self.source.iterate(epoch, start_step), start=start_step):
            spoilt = dataclasses.replace(batch, target=batch.target * float("nan"))
            yield spoilt if step == self.step else batch


def test_a_checkpoint_of_another_model_is_refused(worker, tmp_path):
    train(worker.plain(), worker.Source(), worker.CONFIG, checkpoints=tmp_path, seed=1)
    other = worker.plain()
    other.head = torch.nn.Linear(16, 2)
    with pytest.raises(ValueError, match="does not fit this model"):
        train(other, worker.Source(), worker.CONFIG, checkpoints=tmp_path, seed=1)


def test_torchrec_tables_need_a_process_group(worker, tmp_path):
    with pytest.raises(ValueError, match="process_group"):
        train(worker.sharded(), worker.Source(), worker.CONFIG, checkpoints=tmp_path, seed=1)


def test_a_source_without_a_batch(worker, tmp_path):
    with pytest.raises(ValueError, match="steps_per_epoch: expected >= 1, got 0"):
        train(worker.plain(), worker.Source(steps=0), worker.CONFIG, checkpoints=tmp_path, seed=1)


def test_the_weights_of_the_start_may_be_the_best(worker, tmp_path):
    """A training that makes things worse gives back what it got."""
    model, told = worker.plain(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def evaluate(trained):
        return {"quality": -float((trained.head.weight - before["head.weight"]).abs().sum())}

    options = {"checkpoints": tmp_path, "seed": 1, "evaluate": evaluate, "referee": QualityReferee()}
    report = train(model, worker.Source(), worker.CONFIG, progress=told.append, **options)
    assert told[0].startswith("evaluation at step 0: quality -0.0000")
    assert (report.best_step, [step for step, _ in report.evaluations]) == (0, [0, 5, 10, 15])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = train(worker.plain(), worker.Source(kill_before=0), worker.CONFIG, **options)
    assert again.evaluations == report.evaluations


class QualityReferee:
    """Likes quality, and has had enough at 10."""

    def value(self, evaluations):
        return evaluations[-1][1]["quality"]

    def stop(self, evaluations):
        return "quality is 10" if evaluations and evaluations[-1][1]["quality"] >= 10 else ""


def test_a_referee_ends_the_run_with_its_reason_and_chooses_the_weights(worker, tmp_path):
    class Modest(QualityReferee):
        def value(self, evaluations):
            return -abs(evaluations[-1][1]["quality"] - 6)

    qualities = iter((0.0, 5.0, 10.0, 15.0))
    options = {"evaluate": lambda model: {"quality": next(qualities)}, "referee": Modest()}
    report = train(worker.plain(), worker.Source(), worker.CONFIG, checkpoints=tmp_path, seed=1, **options)
    assert (report.steps, report.best_step, report.stopped) == (10, 5, "quality is 10")
    assert report.evaluations == [(0, {"quality": 0.0}), (5, {"quality": 5.0}), (10, {"quality": 10.0})]
    assert "stopped by quality is 10" in report.lines()[0]


def test_what_steps_note_is_averaged_over_the_whole_run(worker, tmp_path):
    every, rarely = (dataclasses.replace(worker.CONFIG, log_every_steps=steps) for steps in (1, 7))
    reports = [
        train(worker.plain(), worker.Source(), config, checkpoints=tmp_path / str(number), seed=1)
        for number, config in enumerate((every, rarely))
    ]
    assert len(reports[0].losses) == 15
    assert reports[0].means["loss"] == pytest.approx(sum(losses(reports[0])) / 15)
    assert reports[1].means == pytest.approx(reports[0].means)
