"""Options of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

_Config = TypeVar("_Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and with which safeguards a model is trained; batch sizes belong to the data source."""

    epochs: int = 20
    """Passes over the data; the learning-rate schedule ends with the last."""
    max_seconds: float | None = None
    """Stop after this many seconds of training steps (evaluation and checkpoints not counted), on a schedule that
    reaches its end then. None: `epochs` alone decide. With a time budget two runs take different numbers of steps."""
    learning_rate: float = 1e-3
    """Peak rate of AdamW, which trains everything but embedding tables."""
    table_learning_rate: float = 0.05
    """Peak rate of `table_optimizer`, which trains the embedding tables."""
    table_optimizer: Literal["rowwise_adagrad", "adagrad", "sgd"] = "rowwise_adagrad"
    """`rowwise_adagrad` keeps one number per row, `adagrad` one per weight (twice a table's memory), `sgd` none."""
    warmup_fraction: float = 0.02
    """Share of the run in which rates grow linearly from zero."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How rates fall from their peak to zero; `constant`: not at all."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay; norms, biases and what a model's `no_decay_names()` lists are spared."""
    gradient_clip: float | None = 1.0
    """Largest norm of the dense gradient; table updates happen inside the backward pass and are never clipped."""
    ema_decay: float | None = None
    """Decay per step of a moving average of the dense weights, which is then what is evaluated and exported."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products. `auto`: bfloat16 where the processor multiplies it natively, else float32."""
    row_wise_from_rows: int = 1_000_000
    """Tables of at least so many rows are split over all processes; smaller ones live whole on one of them."""
    column_wise_from_dimensions: int | None = None
    """Smaller tables of at least so many dimensions are split by columns instead, over all processes. Row-wise Adagrad
    cannot train these: choose `table_optimizer` adagrad or sgd. None: never."""
    checkpoint_every_steps: int | None = None
    """Save after every so many steps. None: by `checkpoint_every_seconds` alone."""
    checkpoint_every_seconds: float | None = 300.0
    """Save when so many seconds of training went by; what a killed run loses at most. None: by steps alone."""
    evaluate_every_epochs: int = 1
    """Epochs between evaluations; the end of the run is always evaluated."""
    validation_pages: int = 2_000
    """Pages drawn once from the validation split, on which every evaluation is measured."""
    monitor: str = "ndcg_at_10"
    """The evaluation metric by which the best weights are chosen; higher is better."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a new best `monitor`. None: never."""
    log_every_steps: int = 50
    """Steps between progress lines and logged metrics, which are means over these steps."""
    warm_start: float | None = None
    """Where days were added to a log and nothing else has changed, start from the weights of the last run, and take
    this share of `epochs`. None: every run starts from new weights."""
    threads: int | None = None
    """Threads of matrix products in this process. None: torch's default."""

    def __post_init__(self) -> None:
        mistakes = [*self._not_positive(), *self._out_of_range()]
        if self.checkpoint_every_steps is None and self.checkpoint_every_seconds is None:
            mistakes.append("checkpoint_every_steps, checkpoint_every_seconds: expected at least one number")
        if mistakes:
            raise ValueError("training configuration:\n  " + "\n  ".join(mistakes))

    def _not_positive(self) -> list[str]:
        values = [(name, getattr(self, name)) for name in _POSITIVE]
        return [f"{name}: expected > 0, got {value}" for name, value in values if value is not None and not value > 0]

    def _out_of_range(self) -> list[str]:
        mistakes = []
        if not 0 <= self.warmup_fraction < 1:
            mistakes.append(f"warmup_fraction: expected 0 <= fraction < 1, got {self.warmup_fraction}")
        if not self.weight_decay >= 0:
            mistakes.append(f"weight_decay: expected >= 0, got {self.weight_decay}")
        if self.warm_start is not None and not 0 < self.warm_start <= 1:
            mistakes.append(f"warm_start: expected 0 < share <= 1 or none, got {self.warm_start}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            mistakes.append(f"ema_decay: expected 0 < decay < 1 or none, got {self.ema_decay}")
        if self.column_wise_from_dimensions is not None and self.table_optimizer == "rowwise_adagrad":
            mistakes.append(
                "column_wise_from_dimensions: expected none with table_optimizer=rowwise_adagrad, got "
                f"{self.column_wise_from_dimensions}; use table_optimizer=adagrad"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                mistakes.append(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        return mistakes


def check_monitor(section: str, config: TrainConfig, metrics: Sequence[str]) -> None:
    """Check, before anything is trained, that weights can be chosen by what `monitor` names.

    Args:
        section: Name of the settings that `config` comes from.
        config: The training loop.
        metrics: What the model's validation measures, of which more is better.

    Raises:
        ValueError: It is another.
    """
    if config.monitor not in metrics:
        raise ValueError(f"{section}.monitor: expected one of {', '.join(metrics)}, got {config.monitor!r}")


def stored_config(kind: type[_Config], document: Mapping[str, Any], advice: str) -> _Config:
    """Return a configuration that was stored as JSON, perhaps by another version of this software.

    Args:
        kind: A configuration dataclass whose fields have defaults.
        document: What `dataclasses.asdict` wrote.
        advice: What to do where this version cannot read it.

    Raises:
        ValueError: It has settings that `kind` does not know.
    """
    unknown = sorted(document.keys() - kind.__dataclass_fields__.keys())  # type: ignore[attr-defined]
    if unknown:
        raise ValueError(
            f"stored {kind.__name__}: expected settings that this version knows, got {', '.join(unknown)}: another "
            f"version wrote it; {advice}"
        )
    return kind(**document)


_CHOICES = {
    "schedule": ("cosine", "linear", "constant"),
    "precision": ("auto", "float32", "bfloat16"),
    "table_optimizer": ("rowwise_adagrad", "adagrad", "sgd"),
}
_POSITIVE = (
    "epochs",
    "max_seconds",
    "learning_rate",
    "table_learning_rate",
    "gradient_clip",
    "row_wise_from_rows",
    "column_wise_from_dimensions",
    "checkpoint_every_steps",
    "checkpoint_every_seconds",
    "evaluate_every_epochs",
    "validation_pages",
    "patience",
    "log_every_steps",
    "threads",
)
