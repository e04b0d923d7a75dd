"""Inverse probability: rewards weighted by how much likelier the policy earns them than the log did.

With weights of slots these are the estimators of slates: which one, says `weights`. Legend: `w` importance weight, `r`
reward.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from pipelines.replay.estimators.interface import Estimator, Formula, Promise, assumption_of, check_grid, check_weights
from pipelines.replay.estimators.terms import Term
from pipelines.replay.estimators.weights import Shrink, Weights

CLIPS = (math.inf, 1000.0, 300.0, 100.0, 30.0, 10.0, 5.0, 3.0, 2.0, 1.0)
"""Largest weights to choose from."""
_NAMES: dict[Weights, str] = {"page": "ips", "prefix": "rips", "position": "iips", "cluster": "mips"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ips(Estimator):
    """Inverse propensity scoring: `sum w r / n`, summed over the slots of a page where weights are of slots.

    `weights` makes it one of four, from the weakest assumption and most variance to the strongest and least:
    `page`: IPS (Horvitz and Thompson 1952), of slates SIPS: a reward may depend on the whole page. `prefix`: RIPS
    (McInerney et al. 2020, arXiv 2007.12986): on the items up to its slot. `position`: IIPS (Li et al. 2018, arXiv
    1804.10488): on its item and slot only. `cluster`: MIPS (Saito and Joachims 2022, arXiv 2202.06317): on its item's
    cluster and slot only. On pages of one slot the first three are the same.
    """

    promise: ClassVar[Promise] = "unbiased"
    weights: Weights = "page"

    def __post_init__(self) -> None:
        check_weights(type(self).__name__, self.weights, tuple(_NAMES))

    @property
    def assumption(self) -> str:
        """That of its weights."""
        return assumption_of(self.weights)

    @property
    def name(self) -> str:
        """`ips`, `rips`, `iips` or `mips`."""
        return _NAMES[self.weights]

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum w r`."""
        return Formula(weighted=(Term(measure="reward", weights=self.weights),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfNormalisedIps(Ips):
    """Self-normalised: `sum w r / sum w` (Swaminathan and Joachims 2015, The self-normalized estimator).

    Equals the mean reward of the weighted log, so that it stays within the range of rewards, and adding a constant to
    all rewards adds it to the value. With weights of slots each slot has its own `sum w`.
    """

    promise: ClassVar[Promise] = "consistent"

    @property
    def name(self) -> str:
        """`snips`, `snrips`, `sniips` or `snmips`."""
        return f"sn{super().name}"

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum w r / sum w`."""
        return super().formula(slots).normalised(slots)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippedIps(Ips):
    """Clipped: `sum min(w, c) r / n` (Ionides 2008, Truncated importance sampling); `c` chosen from a grid.

    Clipping loses `E[w - min(w, c)] = 1 - E[min(w, c)]` of all weight, so the bias is at most that times the largest
    reward.
    """

    promise: ClassVar[Promise] = "bounded"
    clips: tuple[float, ...] = CLIPS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid("ClippedIps", self.clips)

    @property
    def name(self) -> str:
        """`clipped_ips`, `clipped_rips`, `clipped_iips` or `clipped_mips`."""
        return f"clipped_{super().name}"

    @property
    def grid(self) -> tuple[float, ...]:
        """The clips."""
        return self.clips

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum min(w, parameter) r`."""
        shrink = shrinking("clip", parameter)
        return Formula(weighted=(Term(measure="reward", weights=self.weights, shrink=shrink),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubGaussianIps(Ips):
    """Sub-Gaussian weights: `sum w / (1 - c + c w) r / n` (Metelli et al. 2021, Subgaussian importance sampling).

    Here `c = 1 / limit`: weights stay below the limit, which is chosen from a grid.
    """

    promise: ClassVar[Promise] = "none"
    limits: tuple[float, ...] = CLIPS[:-1]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid("SubGaussianIps", self.limits)
        if self.limits[-1] <= 1:
            raise ValueError(f"SubGaussianIps: limits: expected more than 1, got {self.limits[-1]}")

    @property
    def name(self) -> str:
        """`sub_gaussian_ips` and so on."""
        return f"sub_gaussian_{super().name}"

    @property
    def grid(self) -> tuple[float, ...]:
        """The limits."""
        return self.limits

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum w / (1 - c + c w) r` at `c = 1 / parameter`."""
        shrink = shrinking("harmonic", parameter)
        return Formula(weighted=(Term(measure="reward", weights=self.weights, shrink=shrink),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejection(Estimator):
    """Replay by rejection: mean reward of the pages that a draw of the policy, too, would have shown.

    Formula: `sum m r / sum m`, `m` 1 where they match (Li et al. 2011, arXiv 1003.5956). Few long pages match.
    """

    promise: ClassVar[Promise] = "consistent"

    @property
    def assumption(self) -> str:
        """What it needs of the log and of rewards."""
        return "the log chose uniformly among the pages that the policy may show"

    @property
    def name(self) -> str:
        """`rejection`."""
        return "rejection"

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum m r / sum m`."""
        return Formula(weighted=(Term(measure="reward", weights="accepted"),), self_normalised=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoInverse(Estimator):
    """PI: `sum w r / n` of whole pages (Swaminathan et al. 2017, arXiv 1605.04812).

    Its weight `1' E_policy[...]' pinv(Gamma_log) 1_page` is as if all pairs of position and item were one action each;
    it is made while pages are judged, and only where they have few pairs.
    """

    promise: ClassVar[Promise] = "unbiased"

    @property
    def assumption(self) -> str:
        """What it needs of the log and of rewards."""
        return "a page's reward is a sum over its slots of what each slot's item brings"

    @property
    def name(self) -> str:
        """`pi`."""
        return "pi"

    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return `sum w r`."""
        return Formula(weighted=(Term(measure="reward", weights="pseudo_inverse"),))


def shrinking(how: str, parameter: float | None) -> Shrink | None:
    """Return what makes weights smaller; None at infinity, where they stay as they are.

    Raises:
        ValueError: No parameter was given.
    """
    if parameter is None:
        raise ValueError(f"{how}: expected a parameter of the grid, got None")
    if math.isinf(parameter):
        return None
    if how == "harmonic":
        return Shrink(how="harmonic", parameter=1.0 / parameter)
    return Shrink(how=how, parameter=parameter)  # type: ignore[arg-type]
