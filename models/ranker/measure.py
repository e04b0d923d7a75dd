"""Measuring a ranker on examples, and fitting its calibration to them.

Legend: `P` pages, `R` candidates, `H` heads.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from kernels.jagged import row_numbers
from models.metrics.binary import auc, calibration_ratio, expected_calibration_error, log_loss
from models.ranker.calibration import Calibration, Floats, sigmoid
from models.ranker.config import HEADS
from models.ranker.data import RankerData
from models.ranker.model import UnifiedRanker

_PAGES = 256
"""Pages measured together."""
_FLATTEST = 1e-3
"""The smallest slope of a calibration."""
METRICS = ("auc", "logloss", "calibration", *(f"auc_{head}" for head in HEADS[1:]))
"""What `metrics` returns; the first three are of the click."""


@torch.no_grad()
def predict(model: UnifiedRanker, data: RankerData, pages: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the log-odds of the candidates of pages, `[R, H]`."""
    starts = range(0, len(pages), _PAGES)
    parts = [model.batch_logits(data.batch(pages[start : start + _PAGES], share=1.0)) for start in starts]
    return torch.cat(parts).numpy()


def metrics(logit_RH: Floats, label_RH: Floats, rate_R: Floats) -> dict[str, float]:
    """Return AUC, log loss and calibration ratio of the click, and the AUC of the others, before calibration.

    A head whose labels are all alike has an AUC of nan.
    """
    probability_RH = Calibration().probabilities(logit_RH, rate_R)
    click, label = probability_RH[:, 0], label_RH[:, 0]
    values = [_auc(click, label), log_loss(click, label), calibration_ratio(click, label)]
    values += [_auc(probability_RH[:, head], label_RH[:, head]) for head in range(1, len(HEADS))]
    return dict(zip(METRICS, values, strict=True))


def _auc(probability_R: Floats, label_R: Floats) -> float:
    return auc(probability_R, label_R) if 0 < label_R.sum() < len(label_R) else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadCalibration:
    """How well one head's probabilities fit, before and after calibration.

    After: each half of the pages calibrated by the other half.
    """

    head: str
    positives: int
    auc: float
    logloss: float
    logloss_after: float
    error: float
    """Expected calibration error, 20 bins of equally many candidates."""
    error_after: float
    ratio: float
    """Predicted over observed positives."""
    ratio_after: float

    def line(self) -> str:
        """Return the fit for a terminal."""
        return (
            f"{self.head}: AUC {self.auc:.4f}, log loss {self.logloss:.4f} -> {self.logloss_after:.4f}, calibration "
            f"error {self.error:.4f} -> {self.error_after:.4f}, predicted / observed {self.ratio:.3f} -> "
            f"{self.ratio_after:.3f} ({self.positives:,} positives)"
        )


def calibrate(
    logit_RH: Floats, label_RH: Floats, rate_R: Floats, lengths_P: npt.NDArray[np.int64]
) -> tuple[Calibration, list[HeadCalibration]]:
    """Fit the calibration of every head to predictions that training did not see.

    Args:
        logit_RH: Log-odds.
        label_RH: 0 or 1.
        rate_R: Log rates of drawn items, see `models.ranker.calibration`.
        lengths_P: Candidates of each page; a page is in one half as a whole.

    Returns:
        The calibration fitted to all pages, and how well that works on pages it was not fitted to.
    """
    half_R = row_numbers(lengths_P) % 2 == 0
    whole = _fit(logit_RH, label_RH, rate_R)
    after_RH = np.empty(logit_RH.shape)
    for own_R in (half_R, ~half_R):
        fitted = _fit(logit_RH[~own_R], label_RH[~own_R], rate_R[~own_R])
        after_RH[own_R] = fitted.probabilities(logit_RH[own_R], rate_R[own_R])
    before_RH = Calibration().probabilities(logit_RH, rate_R)
    heads = [
        _head(number, before_RH[:, number], after_RH[:, number], label_RH[:, number]) for number in range(len(HEADS))
    ]
    return whole, heads


def _fit(logit_RH: Floats, label_RH: Floats, rate_R: Floats) -> Calibration:
    fits = [platt(logit_RH[:, head], label_RH[:, head], rate_R) for head in range(len(HEADS))]
    return Calibration(slopes=tuple(slope for slope, _ in fits), intercepts=tuple(shift for _, shift in fits))


def platt(logit_R: Floats, label_R: Floats, rate_R: Floats) -> tuple[float, float]:
    """Return the slope and intercept of the largest likelihood of `sigmoid(slope * logit + intercept - rate)`.

    Labels that are all alike say nothing: slope 1, intercept 0. The slope is kept above 0, so that calibration never
    turns an order around; in these two numbers the loss is convex.
    """
    if not 0 < label_R.sum() < len(label_R):
        return 1.0, 0.0
    logit, label, rate = (np.asarray(values, dtype=np.float64) for values in (logit_R, label_R, rate_R))

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        shifted = parameters[0] * logit + parameters[1] - rate
        error = sigmoid(shifted) - label
        value = float((np.logaddexp(0, shifted) - label * shifted).mean())
        return value, np.array([(error * logit).mean(), error.mean()])

    options = {"ftol": 1e-12, "gtol": 1e-8}
    found = minimize(
        loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(_FLATTEST, None), (None, None)], options=options
    )
    return float(found.x[0]), float(found.x[1])


def _head(number: int, before_R: Floats, after_R: Floats, label_R: Floats) -> HeadCalibration:
    return HeadCalibration(
        head=HEADS[number],
        positives=int(label_R.sum()),
        auc=_auc(before_R, label_R),
        logloss=log_loss(before_R, label_R),
        logloss_after=log_loss(after_R, label_R),
        error=expected_calibration_error(before_R, label_R),
        error_after=expected_calibration_error(after_R, label_R),
        ratio=calibration_ratio(before_R, label_R),
        ratio_after=calibration_ratio(after_R, label_R),
    )
