"""Calibration: probabilities that mean what they say. Kept as plain numbers, applied without any library.

Platt scaling (Platt 1999) per head, `p = sigmoid(slope * logit + intercept)`, is monotone, hence changes no order, and
two numbers are little enough for the few purchases a validation split may hold. Where negatives are drawn, `logit` is
the log-odds among all items and the drawn sample has `slope * logit + intercept - rate` (`models.ranker.loss`): the
fit is to the sample, the two numbers hold for all items.

Legend: `R` candidates, `H` heads.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from models.ranker.config import HEADS

Floats = npt.NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Slope > 0 and intercept of each head."""

    slopes: tuple[float, ...] = (1.0,) * len(HEADS)
    intercepts: tuple[float, ...] = (0.0,) * len(HEADS)

    def probabilities(self, logit_RH: Floats, rate_R: Floats | None = None) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities `[R, H]`, of a drawn sample where its log rates `[R]` are given.

        Example:
            >>> Calibration(slopes=(2, 1, 1), intercepts=(0, 0, 0)).probabilities(np.zeros((1, 3))).tolist()
            [[0.5, 0.5, 0.5]]
        """
        calibrated_RH = logit_RH * np.array(self.slopes) + np.array(self.intercepts)
        return sigmoid(calibrated_RH if rate_R is None else calibrated_RH - rate_R[:, None])


def sigmoid(logit: Floats) -> npt.NDArray[np.float64]:
    """Return `1 / (1 + exp(-logit))` without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logit, dtype=np.float64)))
