"""Options of the comparison."""

from __future__ import annotations

import dataclasses

from models.compression.config import METHODS, ClickConfig

DATASETS = ("movielens-100k", "mind", "criteo", "avazu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(ClickConfig):
    """Which methods are compared, where, and with how many bytes."""

    dataset: str = "movielens-100k"
    """One of `DATASETS`."""
    methods: tuple[str, ...] = METHODS
    """What is compared; `collisionless` has one size, that of a row per value."""
    budgets: tuple[float, ...] = (1 / 2, 1 / 8, 1 / 32, 1 / 64)
    """Sizes of the others' tables, as shares of the collisionless table's bytes."""
    exact_values: int = 8
    """Fields with at most so many values have a row per value in every method."""
    probes: int = 2
    """Lookups per value of `multi_probe`."""

    def mistakes(self) -> list[str]:
        """Return what is wrong, all of it."""
        mistakes = super().mistakes()
        if self.dataset not in DATASETS:
            mistakes.append(f"dataset: expected one of {', '.join(DATASETS)}, got {self.dataset!r}")
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            mistakes.append(f"methods: expected some of {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}")
        if not self.budgets or not all(0 < share <= 1 for share in self.budgets):
            mistakes.append(f"budgets: expected shares above 0 and up to 1, got {self.budgets}")
        if self.exact_values < 0:
            mistakes.append(f"exact_values: expected at least 0, got {self.exact_values}")
        if self.probes < 1 or self.width % max(self.probes, 1):
            mistakes.append(f"probes: expected a divisor of the width {self.width}, got {self.probes}")
        return mistakes
