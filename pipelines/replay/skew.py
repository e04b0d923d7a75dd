"""How far the log's propensities are from those that follow from its own candidates and scores."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.replay.rounds import Floats

ROUNDING = 1e-3
"""Relative differences up to this may be rounding: float32 scores in the hundreds, at temperatures below 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skew:
    """Differences relative to the logged propensity: that is how far a weight is off, however small a chance is.

    Attributes:
        checked: Shown items whose propensity could be computed anew.
        differing: Those that differ by more than `ROUNDING`.
        largest: Largest difference.
        unknown: Shown items whose marginals nobody knows, since the log lacks candidates, scores, epsilon or
            temperature, or was made with caps or diversity.
    """

    checked: int = 0
    differing: int = 0
    largest: float = 0.0
    unknown: int = 0

    @classmethod
    def of(cls, computed_X: Floats, logged_X: Floats) -> Skew:
        """Compare propensities; what is not logged, or is 0 or less, other gates tell of.

        Example:
            >>> Skew.of(np.array([0.5, 0.02]), np.array([0.5, 0.01]))
            Skew(checked=2, differing=1, largest=1.0, unknown=0)
        """
        known_X = logged_X > 0
        difference_X = np.abs(computed_X[known_X] / logged_X[known_X] - 1)
        return cls(
            checked=int(known_X.sum()),
            differing=int((~(difference_X <= ROUNDING)).sum()),
            largest=float(difference_X.max(initial=0.0)),
        )

    def merge(self, other: Skew) -> Skew:
        """Return what both say."""
        return Skew(
            checked=self.checked + other.checked,
            differing=self.differing + other.differing,
            largest=float(np.maximum(self.largest, other.largest)),  # keeps what is no number
            unknown=self.unknown + other.unknown,
        )
