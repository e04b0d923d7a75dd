"""The training run: epochs, schedule, logging, evaluation, checkpoints and exact resume, for any model.

A model's `forward(batch)` returns a scalar loss and a dictionary of scalar diagnostics. Nothing here knows which model
it is, where its tables live (`engine`) or what a batch is (`BatchSource`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.training.checkpoints import BEST, Checkpoints
from models.training.config import TrainConfig
from models.training.engine import build_engine, holds_torchrec
from models.training.interrupts import deferred_interrupt
from models.training.memory import keep_freed_memory
from models.training.meters import EXAMPLES, Meters, clock, peak_rss_mb
from models.training.optimizers import rate_factor
from models.training.position import Evaluation, Position, TrainReport
from models.training.processes import check_equal, largest, rank, world_size

if TYPE_CHECKING:
    from models.training.tracking import Tracker

Evaluate = Callable[[nn.Module], dict[str, float]]
Progress = Callable[[str], None]


class Referee(Protocol):
    """Judges evaluations in the place of `TrainConfig.monitor`; given all so far, the newest last."""

    def value(self, evaluations: list[Evaluation]) -> float:
        """Return how good the newest is: the weights of the largest value are kept."""
        ...

    def stop(self, evaluations: list[Evaluation]) -> str:
        """Return why the run ends here, or an empty text."""
        ...


class BatchSource(Protocol):
    """Training batches, the same for equal (seed, epoch, rank, step)."""

    steps_per_epoch: int
    """Batches per epoch, equal on every rank."""

    def iterate(self, epoch: int, start_step: int) -> Iterator[Any]:
        """Yield the epoch's batches from `start_step` on. A batch may have a `size`: examples, for the rate shown."""
        ...


def train(
    model: nn.Module,
    source: BatchSource,
    config: TrainConfig,
    *,
    checkpoints: Path,
    seed: int,
    tracker: Tracker | None = None,
    evaluate: Evaluate | None = None,
    referee: Referee | None = None,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> TrainReport:
    """Train `model` in place, going on from `checkpoints` if a run was interrupted there.

    A run that was killed and started again takes the same steps, to the bit, as one that was not (on a schedule by
    epochs). On return the model holds the weights to use: averaged if `ema_decay` is set, and those of the best
    evaluation if there were evaluations. Under `torchrun` every process calls this; tracker and progress are used by
    the first only.

    Args:
        model: `forward(batch) -> (loss, diagnostics)`. With TorchRec's tables it must be called within
            `models.training.distributed.process_group`.
        source: Batches of this process.
        config: Options.
        checkpoints: Folder of this run, shared by all processes.
        seed: Of what the model draws while training (dropout).
        tracker: Receives metrics by step.
        evaluate: Called on every process with the model in evaluation mode; must do the same lookups on each.
        referee: Chooses the best weights, the ones that `model` comes with among them, and may end the run.
        progress: Receives a line of text now and then.
        device: Where to train.

    Raises:
        ValueError: The checkpoint does not fit the model, or the evaluation lacks `config.monitor`.
        FloatingPointError: The loss or the gradient is not finite; nothing of it was saved.
        KeyboardInterrupt: Ctrl-C was pressed; a checkpoint was written first.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    if holds_torchrec(model) and not dist.is_initialized():
        raise ValueError(
            "a model with TorchRec's tables needs `with models.training.distributed.process_group(device):`"
        )
    first = rank() == 0
    run = _Run(model, source, config, Checkpoints(checkpoints), torch.device(device))
    run.evaluate, run.referee = evaluate, referee
    run.tracker = tracker if first else None
    run.progress = progress if progress is not None and first else _silent
    run.start(seed)
    if referee is not None:
        run.evaluate_once()
    return run.execute()


class _Run:
    """The mutable state of one call of `train`."""

    evaluate: Evaluate | None
    referee: Referee | None
    tracker: Tracker | None
    progress: Progress

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        config: TrainConfig,
        checkpoints: Checkpoints,
        device: torch.device,
    ) -> None:
        self.model, self.source, self.config, self.checkpoints, self.device = model, source, config, checkpoints, device
        check_equal("steps_per_epoch", source.steps_per_epoch)
        if source.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch: expected >= 1, got {source.steps_per_epoch}; the data are empty")
        self.total_steps = config.epochs * source.steps_per_epoch
        self.engine = build_engine(model, config, device)
        self.position = Position(processes=world_size())
        self.meters = Meters(device)
        self.saved_seconds = 0.0

    def start(self, seed: int) -> None:
        """Seed this process and restore the latest checkpoint, if there is one."""
        for line in self.engine.plan:
            self.progress(line)
        saved = self.checkpoints.progress()
        step = 0 if saved is None else int(saved["step"])
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1)[0]))
        if saved is not None:
            self.position = Position.from_json(saved)
            self._restore()
            self.progress(f"resumed at step {self.position.step:,} of {self.total_steps:,}")

    def evaluate_once(self) -> None:
        """Evaluate and save the weights of the start, unless that was done before."""
        if self.evaluate is not None and not self.position.evaluations:
            self._save(best=self._evaluate(self.evaluate))

    def execute(self) -> TrainReport:
        """Take all steps that are left and return the report."""
        with deferred_interrupt() as interrupts:
            while not self._stopped():
                self._epoch(interrupts)
        if interrupts:  # during the last evaluation, after which all is saved
            raise KeyboardInterrupt
        return self._finish()

    def _stopped(self) -> str:
        if self.referee is not None and (reason := self.referee.stop(self.position.evaluations)):
            return reason
        if self.position.step >= self.total_steps:
            return "epochs"
        if self.config.max_seconds is not None and self.position.seconds >= self.config.max_seconds:
            return "max_seconds"
        patience = self.config.patience
        return "patience" if patience is not None and self.position.without_best >= patience else ""

    def _epoch(self, interrupts: list[int]) -> None:
        """Take the steps up to the end of the epoch or of the run, then evaluate if it is time to."""
        place, per_epoch = self.position, self.source.steps_per_epoch
        epoch, start = divmod(place.step, per_epoch)
        self.model.train()
        batches = self.source.iterate(epoch, start)
        begun = time.perf_counter()
        while True:
            self._step(next(batches))
            # All processes act on one clock, the slowest, and on an interrupt that reached any of them.
            place.seconds, interrupted = largest(place.seconds + time.perf_counter() - begun, bool(interrupts))
            begun = time.perf_counter()
            if place.step % self.config.log_every_steps == 0:
                self._log()
            if self._stopped() or place.step % per_epoch == 0 or interrupted:
                break
            if self._checkpoint_due():
                self._save()
                begun = time.perf_counter()
        saved = (self._stopped() or place.step % per_epoch == 0) and self._end_of_epoch()
        if interrupted and not saved:
            self._save()
        if interrupted:
            raise KeyboardInterrupt

    def _step(self, batch: Any) -> None:
        place, config = self.position, self.config
        # The middle of a step's share of the run: neither the first nor the last step has a rate of zero.
        progress = (place.step + 0.5) / self.total_steps
        if config.max_seconds is not None:
            progress = max(progress, place.seconds / config.max_seconds)
        factor = rate_factor(progress, config.warmup_fraction, config.schedule)
        loss, diagnostics = self.engine.step(batch, factor, progress)
        values: dict[str, Tensor | float] = {
            "loss": loss,
            "learning_rate": config.learning_rate * factor,
            **diagnostics,
        }
        self.meters.add(values, getattr(batch, "size", 1))
        place.step += 1

    def _end_of_epoch(self) -> bool:
        """Log, evaluate and save as configured; return whether it saved."""
        self._check_finite()
        place = self.position
        last = bool(self._stopped())
        if last and self.meters.sums:
            self._log()
        epochs = place.step // self.source.steps_per_epoch
        if self.evaluate is not None and (last or epochs % self.config.evaluate_every_epochs == 0):
            self._save(best=self._evaluate(self.evaluate))
            return True
        if last or self._checkpoint_due():
            self._save()
            return True
        return False

    def _evaluate(self, evaluate: Evaluate) -> bool:
        """Evaluate the averaged weights; return whether they are the best so far."""
        place, monitor = self.position, self.config.monitor
        self.model.eval()
        with torch.random.fork_rng(), self.engine.averaged(), torch.no_grad():
            metrics = {name: float(value) for name, value in evaluate(self.model).items()}
        if monitor not in metrics:
            raise ValueError(f"monitor: expected one of the evaluation's metrics {sorted(metrics)}, got {monitor!r}")
        place.evaluations.append((place.step, metrics))
        value = metrics[monitor] if self.referee is None else self.referee.value(place.evaluations)
        best = place.take(largest(value)[0], metrics)
        described = ", ".join(f"{name} {metric:.4f}" for name, metric in metrics.items())
        self.progress(f"evaluation at step {place.step:,}: {described}{' (best so far)' if best else ''}")
        if self.tracker is not None:
            self.tracker.metrics({f"validation_{name}": metric for name, metric in metrics.items()}, place.step)
        return best

    def _log(self) -> None:
        self._check_finite()
        place = self.position
        means = self.meters.means()
        examples, seconds = means.pop(EXAMPLES), place.seconds - place.logged_seconds
        place.examples += int(examples)
        place.logged_seconds = place.seconds
        place.add(means)
        place.losses.append((place.step, means["loss"]))
        means["examples_per_second"] = examples / seconds
        if self.tracker is not None:
            self.tracker.metrics(means, place.step)
        per_epoch = self.source.steps_per_epoch
        self.progress(
            f"epoch {(place.step - 1) // per_epoch + 1}/{self.config.epochs} step {place.step:,}/{self.total_steps:,} "
            f"loss {means['loss']:.4f} rate {means['learning_rate']:.2e} {examples / seconds:,.0f} examples/s "
            f"ETA {clock(self._seconds_left())} peak RSS {peak_rss_mb():,.0f} MB"
        )

    def _seconds_left(self) -> float:
        place = self.position
        by_steps = place.seconds / place.step * (self.total_steps - place.step)
        budget = math.inf if self.config.max_seconds is None else self.config.max_seconds - place.seconds
        return max(0.0, min(by_steps, budget))

    def _checkpoint_due(self) -> bool:
        every_steps, every_seconds = self.config.checkpoint_every_steps, self.config.checkpoint_every_seconds
        by_steps = every_steps is not None and self.position.step % every_steps == 0
        return by_steps or (every_seconds is not None and self.position.seconds - self.saved_seconds >= every_seconds)

    def _check_finite(self) -> None:
        """Stop before weights that became infinite or nan are evaluated or saved: they would be resumed for ever."""
        noted = {name: float(self.meters.sums[name]) for name in ("loss", "gradient_norm") if name in self.meters.sums}
        if largest(not all(map(math.isfinite, noted.values())))[0]:
            described = " and ".join(f"{name} {value}" for name, value in noted.items())
            raise FloatingPointError(
                f"expected finite numbers, got {described} up to step {self.position.step}; lower learning_rate or "
                f"table_learning_rate (the newest checkpoint in {self.checkpoints.folder} is from before)"
            )

    def _save(self, *, best: bool = False) -> None:
        place = self.position
        self._check_finite()
        place.meters = list(self.meters.sums)
        state = {**self.engine.state_dict(), f"rank{rank()}": self._own_state()}
        self.checkpoints.save(state, place.to_json(), best=best)
        self.saved_seconds = place.seconds

    def _restore(self) -> None:
        """Read the latest checkpoint into the live state."""
        place, state = self.position, self.engine.state_dict()
        same_processes = place.processes == world_size()
        self.meters.reset(place.meters if same_processes else [])
        own = self._own_state()
        if same_processes:
            # Random numbers and half-summed means are each process's own; other numbers of processes start them anew.
            state[f"rank{rank()}"] = own
        self.checkpoints.load(state)
        torch.set_rng_state(own["random"])
        if "random_cuda" in own:
            torch.cuda.set_rng_state(own["random_cuda"], self.device)
        place.processes = world_size()
        self.saved_seconds = place.seconds

    def _own_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"random": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return {**state, "meters": self.meters.sums} if self.meters.sums else state

    def _finish(self) -> TrainReport:
        """Put the weights to use into the model."""
        place = self.position
        if place.best_step is not None and place.best_step != place.step:
            self.checkpoints.load(self.engine.state_dict(), BEST)
        self.engine.use_averaged()
        self.model.eval()
        return TrainReport(
            steps=place.step,
            epochs=place.step / self.source.steps_per_epoch,
            examples=place.examples,
            seconds=place.seconds,
            losses=place.losses,
            metrics=place.best_metrics,
            best_step=place.best_step,
            stopped=self._stopped(),
            peak_rss_mb=peak_rss_mb(),
            processes=world_size(),
            evaluations=place.evaluations,
            means={name: total / place.step for name, total in place.totals.items()},
        )


def _silent(line: str) -> None:
    """Show nothing."""
