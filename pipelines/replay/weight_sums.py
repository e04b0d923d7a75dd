"""What one policy's importance weights of one kind look like over all logged pages.

Legend: `R` logged pages, `P` slots (one for weights of whole pages), `G` buckets of users, `T` the largest pages.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from pipelines.replay.buckets import BucketSums
from pipelines.replay.rounds import Bools, Floats

Policy = Literal["champion", "challenger"]
Kind = Literal["page", "prefix", "position", "cluster"]
POLICIES: tuple[Policy, ...] = ("champion", "challenger")
KINDS: tuple[Kind, ...] = ("page", "prefix", "position", "cluster")
TOP = 10
PER_DECADE = 20
EDGES: Floats = np.logspace(-6, 6, 12 * PER_DECADE + 1)
"""Of the histogram of weights; what is smaller or larger has a bin of its own at each end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightReport:
    """Weights of one kind.

    A page's weight is the sum of its slots' weights. The mean of a slot's weight is 1 where the logging policy can show
    whatever the policy would show, and the logged probabilities are right.
    """

    policy: Policy
    kind: Kind
    effective_pages: float
    """(sum w)^2 / sum w^2 over pages: as many pages of equal weight would be as good."""
    effective_users: float
    """The same over users."""
    mean_P: tuple[float, ...]
    """Mean weight of each slot."""
    z_P: tuple[float, ...]
    """Its distance from 1 in standard errors, users taken as independent; 0 where it is exactly 1."""
    largest: float
    """The heaviest page's weight."""
    page_share: float
    """The heaviest page's share of all weight."""
    top_share: float
    """The ten heaviest pages' share."""
    user_share: float
    """The heaviest bucket's share: no user has more."""
    p99: float
    """99 of 100 shown items (`page`: pages) have no larger weight; up to one bin of the histogram too large."""
    zero_share: float
    """Share of shown items (`page`: pages) that the policy would never show."""
    histogram: tuple[int, ...]
    """Counts of weights: below `EDGES[0]`, between each two edges, from `EDGES[-1]` on."""


class WeightSums:
    """Adds weights of one kind up.

    Args:
        policy: Whose weights.
        kind: See `pipelines.replay.estimators.weights`.
        buckets: Of users.
        slots: Of the longest page.
    """

    def __init__(self, policy: Policy, kind: Kind, buckets: int, slots: int) -> None:
        self.policy, self.kind = policy, kind
        self._sums_GP = np.zeros((buckets, 1 if kind == "page" else slots))
        self._counts_GP = np.zeros_like(self._sums_GP)
        self._histogram = np.zeros(len(EDGES) + 1, dtype=np.int64)
        self._top_T = np.zeros(TOP)
        self._squares, self._zeros = 0.0, 0

    def add(self, weights_RP: Floats, there_RP: Bools, buckets: BucketSums) -> None:
        """Add pages; `weights_RP` and `there_RP` have one column for weights of whole pages."""
        weights_RP = np.where(there_RP, weights_RP, 0.0)
        slots = there_RP.shape[1]
        buckets.add(self._sums_GP[:, :slots], weights_RP)
        buckets.add(self._counts_GP[:, :slots], there_RP.astype(np.float64))
        one = weights_RP[there_RP]
        self._histogram += np.bincount(np.searchsorted(EDGES, one, side="right"), minlength=len(self._histogram))
        self._zeros += int((one == 0).sum())
        pages_R = weights_RP.sum(axis=1)
        self._squares += float(pages_R @ pages_R)
        self._top_T = np.sort(np.concatenate([self._top_T, pages_R]))[-TOP:]

    def merge(self, other: WeightSums) -> None:
        """Add what another one added up."""
        self._sums_GP += other._sums_GP
        self._counts_GP += other._counts_GP
        self._histogram += other._histogram
        self._top_T = np.sort(np.concatenate([self._top_T, other._top_T]))[-TOP:]
        self._squares += other._squares
        self._zeros += other._zeros

    def report(self) -> WeightReport:
        """Return what they look like; without any weight, all figures are 0."""
        users_G = self._sums_GP.sum(axis=1)
        total, count = users_G.sum(), self._counts_GP.sum()
        return WeightReport(
            policy=self.policy,
            kind=self.kind,
            effective_pages=_ratio(total**2, self._squares),
            effective_users=self._effective_users(),
            mean_P=tuple(_ratio(w, n) for w, n in zip(self._sums_GP.sum(0), self._counts_GP.sum(0), strict=True)),
            z_P=tuple(_z(w, n) for w, n in zip(self._sums_GP.T, self._counts_GP.T, strict=True)),
            largest=float(self._top_T[-1]),
            page_share=_ratio(self._top_T[-1], total),
            top_share=_ratio(self._top_T.sum(), total),
            user_share=_ratio(users_G.max(), total),
            p99=self._quantile(0.99),
            zero_share=_ratio(self._zeros, count),
            histogram=tuple(self._histogram.tolist()),
        )

    def _effective_users(self) -> float:
        """Return (sum w)^2 / sum w^2 over users, whose buckets are drawn by hash: see `estimates.effective_users`."""
        weight_G = self._sums_GP.sum(axis=1)
        buckets, total = len(weight_G), weight_G.sum()
        return _ratio(total**2, (weight_G @ weight_G - total**2 / buckets) * buckets / (buckets - 1))

    def _quantile(self, share: float) -> float:
        """Return the upper edge of the bin in which the quantile lies, at most the largest weight."""
        reached = np.cumsum(self._histogram)
        if not reached[-1]:
            return 0.0
        bin_ = int(np.searchsorted(reached, share * reached[-1]))
        return float(min(np.append(EDGES, np.inf)[bin_], self._top_T[-1]))


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else 0.0


def _z(sums_G: Floats, counts_G: Floats) -> float:
    """Return the distance of sum(w) / sum(n) from 1, in standard errors that take buckets as independent."""
    excess_G = (sums_G - counts_G)[counts_G > 0]
    users = len(excess_G)
    if users < 2 or not excess_G.any():
        return 0.0
    error = excess_G.std(ddof=1) * np.sqrt(users)
    return float(excess_G.sum() / error) if error else float(np.copysign(np.inf, excess_G.sum()))
