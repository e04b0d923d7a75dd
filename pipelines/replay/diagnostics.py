"""What could make an estimate wrong, added up over logged pages in bounded memory.

Legend: `R` logged pages, `P` slots.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.replay.buckets import BucketSums
from pipelines.replay.calibration import Calibration, ChiSquare
from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimators.weights import weights_of
from pipelines.replay.rounds import Rounds
from pipelines.replay.skew import Skew
from pipelines.replay.slices import SliceReport, SliceSums, SliceWeights
from pipelines.replay.unseen_rewards import UnseenSums
from pipelines.replay.weight_sums import KINDS, POLICIES, Kind, Policy, WeightReport, WeightSums


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiagnosticsReport:
    """What the logged pages say of how far estimates from them can be trusted."""

    pages: int
    shown: int
    """Items shown on them."""
    bad: Mapping[str, int]
    """Pages that are no evidence, by reason; see `pipelines.replay.usable`."""
    weights: tuple[WeightReport, ...]
    """Of both policies, of each kind."""
    outside: Mapping[Policy, float]
    """Mean share of the policy's probability on items that the logging policy could not have shown."""
    shows: Mapping[Policy, float]
    """Share of pages of which the policy shows at least one item in its slot with a chance above 0."""
    rewarded_users: int
    """Users with a reward other than 0."""
    unseen: Mapping[Kind, tuple[float, float]]
    """By how much rewards that did not come may lower and raise the sum of B - A over pages: `unseen_rewards`."""
    calibration: Mapping[str, ChiSquare]
    """`items`, `bins`: whether logged propensities are the rates of showing; only what could be counted."""
    skew: Skew
    """How far logged propensities are from those that could be recomputed."""
    estimated: bool
    """Whether propensities are estimates, since the log has none."""
    clusters: int
    """Buckets of users with pages: what intervals take as independent."""
    self_weight: float
    """Largest distance from 1 of any weight of whoever made the logs, judged as if they were B: exactly 0."""
    self_difference: float
    """Mean reward by these weights less the mean reward of the logs, per page: exactly 0."""
    slices: SliceReport

    def weight(self, policy: Policy, kind: Kind) -> WeightReport:
        """Return one kind of one policy."""
        return next(one for one in self.weights if (one.policy, one.kind) == (policy, kind))


class Diagnostics:
    """Adds up what diagnoses need; a few MB, however many pages there are.

    Args:
        config: Of the replay.
        slots: Of the longest page.

    Example:
        >>> Diagnostics.empty(ReplayConfig(), slots=3).report().pages
        0
    """

    def __init__(self, config: ReplayConfig, slots: int) -> None:
        self._config = config
        self._pages, self._shown, self._estimated = 0, 0, False
        self._bad: Counter[str] = Counter()
        self._skew: dict[str, Any] = dataclasses.asdict(Skew())  # a mapping is state, see `state`
        self._weights = [WeightSums(policy, kind, config.buckets, slots) for policy in POLICIES for kind in KINDS]
        self._outside: dict[Policy, float] = dict.fromkeys(POLICIES, 0.0)
        self._shows: dict[Policy, int] = dict.fromkeys(POLICIES, 0)
        self._unseen = UnseenSums()
        self._self_weight, self._self_difference = 0.0, 0.0
        self._calibration = Calibration()
        self._slices = [SliceSums(config, slots, weights) for weights in ("position", "prefix")]

    @classmethod
    def empty(cls, config: ReplayConfig, slots: int) -> Diagnostics:
        """Return one without pages."""
        return cls(config, slots)

    def note(self, bad: Mapping[str, int]) -> None:
        """Count pages that are no evidence, by reason: what `usable` and whoever read the log left out."""
        self._bad.update(bad)

    def note_skew(self, skew: Skew) -> None:
        """Take in how far logged propensities of some pages are from the recomputed ones."""
        self._skew = dataclasses.asdict(Skew(**self._skew).merge(skew))

    def note_calibration(self, calibration: Calibration) -> None:
        """Take in how often things were shown that were logged with certain probabilities."""
        self._calibration.merge(calibration)

    def add(self, rounds: Rounds) -> Diagnostics:
        """Add usable pages, and return this."""
        self._pages += len(rounds)
        self._shown += int(rounds.there_RP.sum())
        self._estimated |= rounds.propensities_estimated
        buckets = BucketSums(rounds.users_R, self._config.buckets)
        weights = {
            (sums.policy, sums.kind): weights_of(rounds, getattr(rounds, sums.policy), sums.kind)
            for sums in self._weights
        }
        for sums in self._weights:
            if sums.kind == "page":
                page_R1 = weights[sums.policy, sums.kind][:, None]
                sums.add(page_R1, np.ones((len(rounds), 1), dtype=np.bool_), buckets)
            else:
                sums.add(weights[sums.policy, sums.kind], rounds.there_RP, buckets)
        self._unseen.add(rounds, weights)
        for policy in POLICIES:
            target = getattr(rounds, policy)
            self._outside[policy] += float(target.outside_R.sum())
            shows_RP = (target.chances.conditional_RP > 0) & rounds.there_RP
            self._shows[policy] += int(shows_RP.any(axis=1).sum())
        self._add_logging_policy(rounds)
        for slices in self._slices:
            slices.add(rounds)
        return self

    def merge(self, other: Diagnostics) -> Diagnostics:
        """Add what another one added up, and return this one."""
        self._pages += other._pages
        self._shown += other._shown
        self._estimated |= other._estimated
        self._bad.update(other._bad)
        self.note_skew(Skew(**other._skew))
        for mine, theirs in zip(self._weights, other._weights, strict=True):
            mine.merge(theirs)
        for policy in POLICIES:
            self._outside[policy] += other._outside[policy]
            self._shows[policy] += other._shows[policy]
        self._unseen.merge(other._unseen)
        self._self_weight = float(np.maximum(self._self_weight, other._self_weight))
        self._self_difference += other._self_difference
        self._calibration.merge(other._calibration)
        for slices, others in zip(self._slices, other._slices, strict=True):
            slices.merge(others)
        return self

    def report(self, slices_by: SliceWeights = "position") -> DiagnosticsReport:
        """Return what all pages say.

        Args:
            slices_by: Weights that tell the difference of slices.
        """
        slices = self._slices[slices_by == "prefix"]
        return DiagnosticsReport(
            pages=self._pages,
            shown=self._shown,
            bad=dict(self._bad),
            weights=tuple(sums.report() for sums in self._weights),
            outside={policy: self._outside[policy] / max(self._pages, 1) for policy in POLICIES},
            shows={policy: self._shows[policy] / max(self._pages, 1) for policy in POLICIES},
            rewarded_users=self._unseen.users(),
            unseen=self._unseen.shifts(),
            calibration=self._calibration.tests(),
            skew=Skew(**self._skew),
            estimated=self._estimated,
            clusters=slices.clusters,
            self_weight=self._self_weight,
            self_difference=self._self_difference / max(self._pages, 1),
            slices=slices.report(),
        )

    def _add_logging_policy(self, rounds: Rounds) -> None:
        """Judge whoever made the logs by the arithmetic that judges champion and challenger."""
        themselves = dataclasses.replace(rounds.challenger, chances=rounds.logged)
        for kind in KINDS:
            excess = weights_of(rounds, themselves, kind) - 1.0
            # np.maximum keeps a weight that is no number
            self._self_weight = float(np.maximum(self._self_weight, np.abs(excess).max(initial=0.0)))
            if kind == "page":
                self._self_difference += float(excess @ rounds.rewards_RP.sum(axis=1))
