"""What every estimator is: a formula over sums of terms, what it assumes, and what it then promises."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from typing import ClassVar, Literal

from pipelines.replay.estimators.terms import Term
from pipelines.replay.estimators.weights import Weights

Promise = Literal["unbiased", "consistent", "bounded", "none"]
"""Of an estimate whose assumption holds: right on average; right in the limit of many pages; off by no more than a
stated bound; or nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Formula:
    """A policy's value from sums over all pages: `(base + sum_k weighted_k known_k / normaliser_k) / units`.

    Self-normalised, `normaliser_k` is the sum of the weights of `weighted_k` and `known_k` what that would be if all
    were 1: the number of pages or, for weights of slots, of shown items. Else both are 1.

    Attributes:
        base: Terms added as they are: what a reward model expects.
        weighted: Importance-weighted terms, none for an estimator without weights.
        self_normalised: Whether sums of weights stand in for their known means.
    """

    base: tuple[Term, ...] = ()
    weighted: tuple[Term, ...] = ()
    self_normalised: bool = False

    @property
    def weights(self) -> tuple[Term, ...]:
        """The sums of weights: their mean tells of overlap and bias, their spread of the effective sample size."""
        return tuple(dataclasses.replace(term, measure="one") for term in self.weighted)

    @property
    def terms(self) -> tuple[Term, ...]:
        """All sums that it needs."""
        return self.base + self.weighted + self.weights

    def normalised(self, slots: int) -> Formula:
        """Return it self-normalised: by page, or for weights of slots each slot by its own sum of weights."""
        parts = [
            [term] if term.of_pages else [dataclasses.replace(term, slot=slot) for slot in range(slots)]
            for term in self.weighted
        ]
        return dataclasses.replace(self, weighted=tuple(itertools.chain(*parts)), self_normalised=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimator(abc.ABC):
    """Estimates what a policy would have earned on the logged pages.

    `r` is a reward, `q` its prediction, `w` an importance weight; sums without an index run over all pages.
    """

    promise: ClassVar[Promise]

    @property
    @abc.abstractmethod
    def assumption(self) -> str:
        """What must hold for the promise, in words."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Unique among estimators."""

    @property
    def grid(self) -> tuple[float, ...]:
        """Parameters to choose from, the one of the least bias and most variance first; empty for none."""
        return ()

    @abc.abstractmethod
    def formula(self, slots: int, parameter: float | None = None) -> Formula:
        """Return its formula for pages of so many slots at one parameter of the grid, None where it has none."""


OVERLAP = "the log could have shown whatever the policy shows, and its probabilities are true"
_DEPENDENCE: dict[Weights, str] = {
    "page": "",
    "prefix": "; an item's reward does not depend on the items after it",
    "position": "; an item's reward depends on no other item of the page",
    "cluster": "; an item's reward depends on its cluster and slot only, whichever item of the cluster it is",
}


def assumption_of(weights: Weights) -> str:
    """Say what makes importance weights of one kind right."""
    return OVERLAP + _DEPENDENCE[weights]


def check_weights(estimator: str, weights: Weights, allowed: tuple[Weights, ...]) -> None:
    """Raise ValueError unless the weights are among those that make sense for an estimator."""
    if weights not in allowed:
        raise ValueError(f"{estimator}: weights: expected one of {', '.join(allowed)}, got {weights!r}")


def check_grid(estimator: str, grid: tuple[float, ...]) -> None:
    """Raise ValueError unless a grid has positive parameters, the largest, of the least bias, first."""
    if not grid or list(grid) != sorted(set(grid), reverse=True) or not grid[-1] > 0:
        raise ValueError(f"{estimator}: grid: expected descending numbers > 0, at least one, got {grid}")
