"""The difference between challenger and champion in parts of the pages: where it comes from, and whom it harms.

Legend: `R` logged pages, `P` slots, `G` buckets of users, `S` slices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from pipelines.replay.buckets import BucketSums
from pipelines.replay.config import ITEM, ReplayConfig
from pipelines.replay.estimators.weights import weights_of
from pipelines.replay.intervals import standard_error, student_quantile
from pipelines.replay.rounds import Bools, Floats, Ints, Rounds, Target

OF_ITEMS = ("item", "novelty")
"""Groups of slices that tell shown items apart. A policy decides how many of them it shows, so they are parts of a
page's reward. All other groups tell pages or slots apart, which no policy decides, and are judged by themselves."""
POSITION = "position"
MOST_SLICES = 200
SliceWeights = Literal["position", "prefix"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceResult:
    """One slice.

    `difference` is per page that has a slot of the slice; in groups of items (`OF_ITEMS`), the slice's part of the
    difference per page of all. With unit `item`: per shown item instead.
    """

    name: str
    """`group=value`."""
    shown: int
    """Shown items in it."""
    difference: float
    low: float
    high: float
    """Ends of the interval at the replay's confidence, by Student's t over buckets of users."""
    p: float
    """Of no difference, two-sided."""
    adjusted_p: float
    """By Benjamini and Hochberg, over all slices."""
    real: bool
    """Whether the difference stands at the replay's false discovery rate."""

    @property
    def group(self) -> str:
        """What comes before the `=`."""
        return self.name.split("=")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceReport:
    """All slices and the total that they are parts of."""

    total: float
    slices: tuple[SliceResult, ...]
    reversed_groups: tuple[str, ...]
    """Groups whose slices all go against the total, one of them by a real difference (Simpson's paradox)."""


class SliceSums:
    """Adds differences up by slice and bucket of users.

    With position weights w, rewards r and the reward model's q, the difference of a slot is
    `(w_B - w_A)(r - q) + q_B - q_A`, and `(w_B - w_A) r` in groups of items: what the model expects of the items that a
    policy would show cannot be told apart by group. With prefix weights it is that of `cascade_dr`, whose expectations
    are weighted by what stands before the slot.

    Args:
        config: Of the replay.
        slots: Of the longest page.
        weights: Those of the estimator that decides, or of positions where it weighs whole pages.
    """

    def __init__(self, config: ReplayConfig, slots: int, weights: SliceWeights = "position") -> None:
        self._config, self._weights = config, weights
        self._names = [f"{POSITION}={slot + 1}" for slot in range(slots)]
        self._sums_GS3 = np.zeros((config.buckets, slots, 3))
        self._total_G2 = np.zeros((config.buckets, 2))

    def add(self, rounds: Rounds) -> SliceSums:
        """Add usable pages, and return this.

        Raises:
            ValueError: There are too many slices.
        """
        buckets = BucketSums(rounds.users_R, self._config.buckets)
        judged_RP, paid_RP = _differences(rounds, self._weights)
        buckets.add(self._total_G2, np.stack([judged_RP.sum(axis=1), self._units(rounds.there_RP)], axis=1))
        for name, mask_RP in {**_positions(rounds.there_RP), **rounds.slices}.items():
            mask_RP = mask_RP & rounds.there_RP
            of_items = name.split("=")[0] in OF_ITEMS
            difference_R = np.where(mask_RP, paid_RP if of_items else judged_RP, 0.0).sum(axis=1)
            units_R = self._units(rounds.there_RP if of_items else mask_RP)
            sums = np.stack([difference_R, units_R, mask_RP.sum(axis=1)], axis=1)
            column = self._column(name)
            buckets.add(self._sums_GS3[:, column], sums)
        return self

    def merge(self, other: SliceSums) -> SliceSums:
        """Add what another one added up, and return this."""
        self._total_G2 += other._total_G2
        for column, name in enumerate(other._names):
            mine = self._column(name)
            self._sums_GS3[:, mine] += other._sums_GS3[:, column]
        return self

    def report(self) -> SliceReport:
        """Return the slices that occur."""
        total = _interval(self._total_G2[:, 0], self._total_G2[:, 1], self._config.confidence)[0]
        columns = [column for column in range(len(self._names)) if self._sums_GS3[:, column, 2].any()]
        found = [self._result(column) for column in columns]
        adjusted = benjamini_hochberg([one.p for one in found])
        rate = self._config.slice_discovery_rate
        slices = tuple(
            dataclasses.replace(one, adjusted_p=p, real=p <= rate) for one, p in zip(found, adjusted, strict=True)
        )
        return SliceReport(total=total, slices=slices, reversed_groups=reversed_groups(slices, total))

    @property
    def clusters(self) -> int:
        """Buckets with pages."""
        return int((self._total_G2[:, 1] > 0).sum())

    def _result(self, column: int) -> SliceResult:
        sums_G, units_G, shown_G = self._sums_GS3[:, column].T
        difference, low, high, p = _interval(sums_G, units_G, self._config.confidence)
        return SliceResult(
            name=self._names[column],
            shown=int(shown_G.sum()),
            difference=difference,
            low=low,
            high=high,
            p=p,
            adjusted_p=1.0,
            real=False,
        )

    def _units(self, mask_RP: Bools) -> Ints:
        count_R = mask_RP.sum(axis=1)
        return count_R if self._config.unit == ITEM else np.minimum(count_R, 1)

    def _column(self, name: str) -> int:
        if name not in self._names:
            if len(self._names) >= MOST_SLICES:
                raise ValueError(
                    f"slices: expected at most {MOST_SLICES}, got {name!r} besides; give keys of few values"
                )
            self._names.append(name)
            self._sums_GS3 = np.pad(self._sums_GS3, ((0, 0), (0, 1), (0, 0)))
        return self._names.index(name)


def benjamini_hochberg(p_S: Sequence[float]) -> list[float]:
    """Return adjusted p-values: those up to q are discoveries of which at most a share q is false on average.

    The k-th smallest of m becomes `min over j >= k of p_(j) m / j` (Benjamini and Hochberg 1995).

    Example:
        >>> [round(p, 6) for p in benjamini_hochberg([0.01, 0.04, 0.03, 0.5])]
        [0.04, 0.053333, 0.053333, 0.5]
    """
    return [float(p) for p in stats.false_discovery_control(p_S)] if len(p_S) else []


def reversed_groups(slices: Sequence[SliceResult], total: float) -> tuple[str, ...]:
    """Return the groups of at least two slices that all go against the total, one of them by a real difference."""
    groups = {group: [one for one in slices if one.group == group] for group in dict.fromkeys(s.group for s in slices)}
    return tuple(
        group
        for group, each in groups.items()
        if len(each) > 1 and any(one.real for one in each) and all(one.difference * total < 0 for one in each)
    )


def _positions(there_RP: Bools) -> dict[str, Bools]:
    slots = np.arange(there_RP.shape[1])
    return {f"{POSITION}={slot + 1}": there_RP & (slots == slot) for slot in slots}


def _differences(rounds: Rounds, kind: SliceWeights) -> tuple[Floats, Floats]:
    """Return each slot's difference with the reward model, and from rewards alone."""

    def expected(target: Target) -> Floats:
        if kind == "prefix":
            return weights_of(rounds, target, "before") * target.expected_next_RP
        return target.expected_RP

    def difference(of_challenger: Floats, of_champion: Floats) -> Floats:
        return np.where(rounds.there_RP, of_challenger - of_champion, 0.0)

    more_RP = difference(weights_of(rounds, rounds.challenger, kind), weights_of(rounds, rounds.champion, kind))
    expected_RP = difference(expected(rounds.challenger), expected(rounds.champion))
    return more_RP * (rounds.rewards_RP - rounds.predicted_RP) + expected_RP, more_RP * rounds.rewards_RP


def _interval(sums_G: Floats, units_G: Floats, confidence: float) -> tuple[float, float, float, float]:
    """Return a ratio of sums, both ends of its interval, and the p-value of 0; fewer than two buckets tell nothing."""
    present_G = units_G > 0
    sums_G, units_G = sums_G[present_G], units_G[present_G]
    clusters, units = len(sums_G), max(float(units_G.sum()), 1.0)
    difference = float(sums_G.sum()) / units
    if clusters < 2:
        return difference, -np.inf, np.inf, 1.0
    error = float(standard_error((sums_G - difference * units_G)[None] / units)[0])
    if error == 0:
        return difference, difference, difference, float(difference == 0)
    half = student_quantile(clusters, confidence) * error
    p = float(2 * stats.t.sf(abs(difference) / error, clusters - 1))
    return difference, difference - half, difference + half, p
