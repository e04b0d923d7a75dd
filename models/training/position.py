"""Where a run stands, and what a run did."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

Evaluation = tuple[int, dict[str, float]]
"""A step, and what was measured after it."""


@dataclasses.dataclass
class Position:
    """The part of a run's state that is not tensors; saved as JSON beside them."""

    step: int = 0
    seconds: float = 0.0
    """Of training steps, evaluations and checkpoints not counted."""
    logged_seconds: float = 0.0
    examples: int = 0
    losses: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    totals: dict[str, float] = dataclasses.field(default_factory=dict)
    """Sums over steps of what a step notes, up to the last log line."""
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    best_value: float | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    without_best: int = 0
    """Evaluations since the best."""
    meters: list[str] = dataclasses.field(default_factory=list)
    """Names of the values summed up since the last log line."""
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the position as a JSON document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Position:
        """Read what `to_json` wrote."""
        return cls(**{**document, **_tuples(document)})

    def add(self, means: Mapping[str, float]) -> None:
        """Note the means of what the steps since the last log line noted; the step's `losses` entry comes after."""
        steps = self.step - (self.losses[-1][0] if self.losses else 0)
        for name, mean in means.items():
            self.totals[name] = self.totals.get(name, 0.0) + steps * mean

    def take(self, value: float, metrics: dict[str, float]) -> bool:
        """Note an evaluation; return whether it is the best so far."""
        best = self.best_value is None or value > self.best_value
        self.without_best = 0 if best else self.without_best + 1
        if best:
            self.best_value, self.best_step, self.best_metrics = value, self.step, metrics
        return best


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a run did."""

    steps: int
    epochs: float
    examples: int
    seconds: float
    """Of training steps, over all resumptions; evaluations and checkpoints not counted."""
    losses: list[tuple[int, float]]
    """(step, mean loss since the entry before)."""
    metrics: dict[str, float]
    """The evaluation of the final weights; empty without evaluation."""
    best_step: int | None
    """Step of the final weights where evaluations chose them; None: the last step."""
    stopped: str
    """`epochs`, `max_seconds`, `patience`, or the reason that a rule of the caller's gave."""
    peak_rss_mb: float
    processes: int
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    means: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of what steps noted, the model's diagnostics among it, over all steps."""

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TrainReport:
        """Read what `dataclasses.asdict` made."""
        return cls(**{**document, **_tuples(document)})

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        rate = self.examples / self.seconds if self.seconds else 0.0
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        lines = [
            f"trained {self.steps:,} steps ({self.epochs:.1f} epochs) in {self.seconds:.1f} s, {rate:,.0f} examples/s, "
            f"{processes}, peak RSS {self.peak_rss_mb:,.0f} MB; stopped by {self.stopped}"
        ]
        if self.losses:
            lines.append(f"loss {self.losses[0][1]:.4f} -> {self.losses[-1][1]:.4f}")
        if self.best_step is not None:
            metrics = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
            lines.append(f"best weights of step {self.best_step:,}: {metrics}")
        return lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedTraining(abc.ABC):
    """What the training of any kind of model did and where it lies."""

    run: str
    folder: str
    pages: int
    """Training pages."""
    parameters: int
    train: TrainReport
    tracking: list[str]
    """Where to look at the curves."""

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        return [
            *self.data_lines(),
            *self.train.lines(),
            *self.result_lines(),
            *self.tracking,
            f"run {self.title}: {self.folder}",
        ]

    @abc.abstractmethod
    def data_lines(self) -> list[str]:
        """Return what the model is and what it was trained on."""

    def result_lines(self) -> list[str]:
        """Return what was found about the trained model, beside what the loop measures."""
        return []

    @property
    def title(self) -> str:
        """What the last line calls the run."""
        return self.run


def _tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON has as lists of lists: losses and evaluations."""
    return {
        "losses": [(int(step), float(loss)) for step, loss in document["losses"]],
        "evaluations": [(int(step), metrics) for step, metrics in document.get("evaluations", [])],
    }


def described_counts(counts: Mapping[str, int]) -> str:
    """Return the counts that are not 0 as a text.

    Example:
        >>> described_counts({"no_positive": 1200, "seen": 0}), described_counts({})
        ('1,200 no_positive', 'nothing')
    """
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "nothing"
