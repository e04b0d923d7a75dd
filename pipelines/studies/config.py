"""Configuration of the studies."""

from __future__ import annotations

import dataclasses

from features.schemas import SPLITS, TEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class SslStudyConfig:
    """Which runs are compared, and on what."""

    fractions: tuple[float, ...] = (1.0, 0.1)
    """Shares of the training examples to train on."""
    split: str = TEST
    """Split that is measured. Settle everything on `validation` first."""

    def __post_init__(self) -> None:
        mistakes = []
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            mistakes.append(f"fractions: expected numbers above 0 and at most 1, got {self.fractions}")
        if self.split not in SPLITS:
            mistakes.append(f"split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
