"""Configuration of the batch pipelines; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math

PROTOCOLS = ("time", "leave_one_out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PagesConfig:
    """How events become pages."""

    gap_minutes: float = 30.0
    """Events without a `request_id` form one page until the user pauses for longer than this. Data that have only
    dates or only an order (manifest note `dates_only` or `order_only`) use the same UTC day instead."""
    cap: int = 10
    """Most items of a page made from a burst, in order of first appearance; the rest of the burst makes further pages.
    Pages with a `request_id` are never cut."""
    popularity_half_life_days: float = 30.0
    """A positive event this many days before the last training event counts half in `recent_popularity`."""

    def __post_init__(self) -> None:
        _raise_all(
            (self.gap_minutes > 0, f"pages.gap_minutes: expected > 0, got {self.gap_minutes}"),
            (self.cap >= 1, f"pages.cap: expected >= 1, got {self.cap}"),
            (
                self.popularity_half_life_days > 0,
                f"pages.popularity_half_life_days: expected > 0, got {self.popularity_half_life_days}",
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Which pages train, validate and test."""

    protocol: str = "time"
    """`time`: the last whole UTC days are test, those before validation, for all users at once. `leave_one_out`: each
    user's last page is test, the one before validation (users with fewer than 3 pages train only); it lets training see
    other users' future and exists to match published tables."""
    validation_days: int = 2
    """Whole UTC days of validation pages, counted back from the first test day; protocol `time` only."""
    test_days: int = 2
    """Whole UTC days of test pages, counted back from and including the day of the last page; protocol `time` only."""

    def __post_init__(self) -> None:
        _raise_all(
            (
                self.protocol in PROTOCOLS,
                f"split.protocol: expected one of {', '.join(PROTOCOLS)}, got {self.protocol!r}",
            ),
            (self.validation_days >= 0, f"split.validation_days: expected >= 0, got {self.validation_days}"),
            (self.test_days >= 0, f"split.test_days: expected >= 0, got {self.test_days}"),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransitionsConfig:
    """How item transitions are weighed."""

    max_distance: int = 3
    """Pairs of a user's positive events up to this far apart count, with weight 1 / distance."""
    smoothing: float = 10.0
    """Added to both item counts under the root; larger values favour frequent items."""

    def __post_init__(self) -> None:
        _raise_all(
            (
                1 <= self.max_distance <= 20,
                f"transitions.max_distance: expected 1 to 20, got {self.max_distance}",
            ),
            (
                self.smoothing >= 0 and math.isfinite(self.smoothing),
                f"transitions.smoothing: expected a number >= 0, got {self.smoothing}",
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The batch pipelines."""

    pages: PagesConfig = dataclasses.field(default_factory=PagesConfig)
    """Events to pages."""
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    """Train, validation, test."""
    transitions: TransitionsConfig = dataclasses.field(default_factory=TransitionsConfig)
    """Item to item."""
    shards: int = 16
    """Parts into which users, items and days are hashed: one is processed in memory at a time per worker. Rows do not
    depend on it, file names do. At least 4 per worker; 10 million events need about 16."""
    stream_log: bool = True
    """Whether what `pagewise stream` has logged is read beside the raw tables. False where these hold the same events
    already, from a warehouse of your own."""

    def __post_init__(self) -> None:
        _raise_all((1 <= self.shards <= 65536, f"shards: expected 1 to 65536, got {self.shards}"))


def _raise_all(*checks: tuple[bool, str]) -> None:
    mistakes = [message for passed, message in checks if not passed]
    if mistakes:
        raise ValueError("; ".join(mistakes))
