"""Estimators with a reward model: alone, and corrected by what it got wrong on the logged pages.

Legend: `w` importance weight, `r` reward, `q` its prediction for the logged item, `e` that for what the policy would
show.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pipelines.replay.estimators.interface import Estimator, Formula, Promise, assumption_of, check_grid, check_weights
from pipelines.replay.estimators.inverse_probability import CLIPS, shrinking
from pipelines.replay.estimators.terms import Term
from pipelines.replay.estimators.weights import Weights

SHRINKAGES = tuple(clip**2 for clip in CLIPS)
"""Parameters of optimistic shrinkage: a weight of the square root of it is halved, as a clip at that root would begin
to bite."""
_EXPECTED = Term(measure="expected", weights="none")
_PREFIX: dict[Weights, str] = {"page": "", "position": "iips_"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectMethod(Estimator):
    """DM: `sum e / n`, over the slots of a page; no weights, no correction.

    Its interval knows nothing of the model's mistakes, so it promises nothing.
    """

    promise: ClassVar[Promise] = "none"

    @property
    def assumption(self) -> str:
        """That of its model."""
        return "the reward model is right"

    @property
    def name(self) -> str:
        """`dm`."""
        return "dm"

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum e`."""
        return Formula(base=(_EXPECTED,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoublyRobust(Estimator):
    """DR: `sum (e + w (r - q)) / n` (Dudik et al. 2011, arXiv 1103.4601).

    Unbiased whatever the model says of other users' pages, and of little variance where it is right. `page` weights
    correct the page's total. `position` weights correct each slot by itself: `iips_dr`, IIPS with a control variate.

    `iips_dr` is what decides about long pages (`auto`). Weights of whole pages multiply over slots: if a policy shows
    in each of ten slots only half of what the log does, and that twice as often, one page in a thousand weighs 1024
    and all others 0; hardly any log is long enough. Prefix weights only delay that: the last slots weigh as much.
    Weights of positions stay near the ratio of one slot, so the variance is that of pages of one item.

    The price is bias where an item's reward depends on its neighbours (substitutes, attention that ends at the first
    hit): rewards are seen beside the log's neighbours, not the policy's. What both policies change alike about the
    neighbours cancels in the difference. The control variate takes away variance, not this bias. `cascade_dr` is free
    of it where users read from the top; it stands beside, and may contradict.
    """

    promise: ClassVar[Promise] = "unbiased"
    weights: Weights = "page"

    def __post_init__(self) -> None:
        check_weights(type(self).__name__, self.weights, tuple(_PREFIX))

    @property
    def assumption(self) -> str:
        """That of its weights."""
        return assumption_of(self.weights)

    @property
    def name(self) -> str:
        """`dr` or `iips_dr`."""
        return f"{_PREFIX[self.weights]}dr"

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum e + w (r - q)`."""
        return Formula(base=(_EXPECTED,), weighted=(Term(measure="residual", weights=self.weights),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfNormalisedDr(DoublyRobust):
    """SNDR: `sum e / n + sum w (r - q) / sum w` (Thomas and Brunskill 2016, arXiv 1604.00923)."""

    promise: ClassVar[Promise] = "consistent"

    @property
    def name(self) -> str:
        """`sndr` or `iips_sndr`."""
        return f"{_PREFIX[self.weights]}sndr"

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum e` and `sum w (r - q) / sum w`."""
        return super().formula(slots).normalised(slots)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippedDr(DoublyRobust):
    """Clipped DR: `sum (e + min(w, c) (r - q)) / n` (Su et al. 2020, arXiv 1907.09623); `c` chosen from a grid.

    The bias is at most the share of weight that clipping loses, times the model's largest mistake.
    """

    promise: ClassVar[Promise] = "bounded"
    clips: tuple[float, ...] = CLIPS
    _how: ClassVar[str] = "clip"
    _label: ClassVar[str] = "clipped_dr"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(type(self).__name__, self.clips)

    @property
    def name(self) -> str:
        """The usual name, after `iips_` where weights are of positions."""
        return f"{_PREFIX[self.weights]}{self._label}"

    @property
    def grid(self) -> tuple[float, ...]:
        """The parameters."""
        return self.clips

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum e + shrunk(w) (r - q)`."""
        shrink = shrinking(self._how, parameter)
        residual = Term(measure="residual", weights=self.weights, shrink=shrink)
        return Formula(base=(_EXPECTED,), weighted=(residual,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwitchDr(ClippedDr):
    """Switch-DR: the correction counts where `w <= c` only (Wang et al. 2017, arXiv 1612.01205)."""

    _how: ClassVar[str] = "switch"
    _label: ClassVar[str] = "switch_dr"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrunkDr(ClippedDr):
    """DRos: `sum (e + c w / (w^2 + c) (r - q)) / n`, optimistic shrinkage (Su et al. 2020, arXiv 1907.09623)."""

    clips: tuple[float, ...] = SHRINKAGES
    _how: ClassVar[str] = "optimistic"
    _label: ClassVar[str] = "dros"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CascadeDr(Estimator):
    """Cascade-DR: `sum (w_k (r_k - q_k) + w_(k-1) e_k) / n` over slots k (Kiyohara et al. 2022, arXiv 2202.01562).

    `w_k` weighs the items up to slot k and `e_k` is what the model expects of the slot given the logged items before.
    RIPS with a control variate: a reward may depend on the items above it.
    """

    promise: ClassVar[Promise] = "unbiased"

    @property
    def assumption(self) -> str:
        """That of weights of prefixes."""
        return assumption_of("prefix")

    @property
    def name(self) -> str:
        """`cascade_dr`."""
        return "cascade_dr"

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum w_k (r_k - q_k) + w_(k-1) e_k`."""
        expected = Term(measure="expected_next", weights="before")
        return Formula(base=(expected,), weighted=(Term(measure="residual", weights="prefix"),))
