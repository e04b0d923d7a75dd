"""Configuration of the two-tower model."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Inputs, towers, losses and batches."""

    item_features: tuple[str, ...] | None = None
    """Columns of `models.inputs.item_columns` that the item tower reads. None: all of them."""
    user_features: tuple[str, ...] | None = None
    """Columns of `models.inputs.request_columns`, and `recency` (log seconds since the newest history item) and
    `history_length`, that the user tower reads beside the history. None: all but `user_id`, and without the moment
    (`hour`, `weekday`, `recency`) where a data set's times are only an order."""
    history_features: tuple[str, ...] = ("item_id", "category", "brand")
    """Item columns that describe history items; each shares the item tower's table."""
    history_windows: tuple[int, ...] = (1, 5, 50)
    """For each window n one vector per history feature: the mean over the newest n items. The largest is how far back a
    history is looked at, 1 is the newest item by itself."""
    train_fraction: float = 1.0
    """Share of the training pages to train on, drawn by the seed: what would a shop with fewer data have?"""
    min_history: int = 1
    """Training pages with fewer history items are left out; 0 keeps users' first pages."""
    min_count: int = 2
    """Values that occur in fewer items (item columns) or training pages (request columns) share the feature's default
    vector. Item ids: those without a training event do."""
    item_dimensions: int = 64
    """Width of the item-id table; a multiple of 4."""
    feature_dimensions: int = 32
    """Width of all other tables; a multiple of 4."""
    hidden: tuple[int, ...] = (128,)
    """Widths of both towers' layers (ReLU between them); the last is the vectors' width. The paper: (1024, 128); on
    small data (Amazon Beauty) one layer generalises better."""
    temperature: float = 0.07
    """Divides the cosine in the main loss (the paper: 0.07 and 0.06; with the correction 0.05 to 0.07)."""
    batch_size: int = 1024
    """Examples (page, positive item) per process; within the process their items are each other's negatives. The
    paper: 1024 and 4096."""
    uniform_negatives: int = 1024
    """Items drawn evenly from the catalogue as further negatives of every example (mixed negative sampling)."""
    log_q: Literal["off", "all", "negatives"] = "all"
    """Correct logits for how likely an item is a candidate: of `all` items (Yi et al., 2019), or only of `negatives`
    because an example's own positive is a candidate for certain (Khrylchenko et al., 2025)."""
    frequency_hashes: int = 2
    """Hash functions of the streaming estimate of these probabilities; more tell colliding items apart better."""
    frequency_buckets: int = 65_536
    """Buckets per hash function; about ten times the number of items makes collisions rare."""
    frequency_rate: float = 0.01
    """Weight of the newest gap in an item's mean gap between batches that hold it."""
    ssl_weight: float = 0.0
    """Weight alpha of the self-supervised loss on the item tower (the paper: 0.1 to 3). 0: that task does not exist."""
    ssl_temperature: float = 0.07
    """Divides the cosine in the self-supervised loss."""
    ssl_batch_size: int = 1024
    """Items drawn evenly from the catalogue for each step's self-supervised loss, per process."""
    ssl_masking: Literal["rfm", "cfm"] = "cfm"
    """What a view hides: a random half of the features (`rfm`), or a random one and the half that tells most about it
    (`cfm`)."""
    ssl_complementary: bool = True
    """Whether the second view hides exactly what the first shows; otherwise it draws a mask of its own."""
    ssl_dropout: float = 0.3
    """Probability with which each value of a many-valued feature is left out of a view (the paper's best: 0.3)."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        mistakes += [
            f"{name}: expected a multiple of 4, got {getattr(self, name)}"
            for name in ("item_dimensions", "feature_dimensions")
            if getattr(self, name) % 4
        ]
        mistakes += [
            f"{name}: expected > 0, got {getattr(self, name)}"
            for name in ("temperature", "ssl_temperature")
            if not getattr(self, name) > 0
        ]
        mistakes += [*self._widths(), *self._ranges()]
        if mistakes:
            raise ValueError("two-tower configuration:\n  " + "\n  ".join(mistakes))

    @property
    def max_history(self) -> int:
        """Newest history items that count."""
        return max(self.history_windows)

    def _widths(self) -> list[str]:
        mistakes = []
        if not self.hidden or min(self.hidden) < 1:
            mistakes.append(f"hidden: expected one number or more, each at least 1, got {self.hidden}")
        windows = self.history_windows
        if not windows or min(windows) < 1 or len(set(windows)) < len(windows):
            mistakes.append(
                f"history_windows: expected one number or more, each at least 1 and distinct, got {windows}"
            )
        for name in ("item_features", "history_features"):
            values = getattr(self, name)
            if values is not None and not values:
                mistakes.append(f"{name}: expected at least one name, got none")
        return mistakes

    def _ranges(self) -> list[str]:
        mistakes = []
        if not 0 < self.train_fraction <= 1:
            mistakes.append(f"train_fraction: expected 0 < fraction <= 1, got {self.train_fraction}")
        if not 0 < self.frequency_rate < 1:
            mistakes.append(f"frequency_rate: expected 0 < rate < 1, got {self.frequency_rate}")
        if not 0 <= self.ssl_dropout < 1:
            mistakes.append(f"ssl_dropout: expected 0 <= dropout < 1, got {self.ssl_dropout}")
        for name, choices in (("log_q", ("off", "all", "negatives")), ("ssl_masking", ("rfm", "cfm"))):
            if getattr(self, name) not in choices:
                mistakes.append(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        return mistakes


_AT_LEAST = {
    "min_history": 0,
    "min_count": 1,
    "item_dimensions": 4,
    "feature_dimensions": 4,
    "batch_size": 2,
    "uniform_negatives": 0,
    "frequency_hashes": 1,
    "frequency_buckets": 1,
    "ssl_weight": 0,
    "ssl_batch_size": 2,
}
