"""Gates: what must hold of the logged pages before an estimate from them may decide anything.

Their levels, and why:

- Bad input (`usable.BAD`): none at all. One impossible number shows that the logger, or a join after it, is wrong, and
  nobody can tell how wrong the possible numbers are.
- `users`, `effective_sample`, `weight_share`, `outside`: the replay's own options. Intervals rest on the central limit
  theorem over users, which needs some hundreds of them, none of which dominates.
- `rewarded_users`: the same theorem needs rewards, too; `docs/replay.md` measures how many.
- `unseen_rewards`: where few rewards speak against a difference, three more of them, on pages where the other policy
  weighs more, must not take the interval back to the margin (`pipelines.replay.unseen_rewards`): what never came has no
  standard error.
- `promise`: the estimator that decides must promise something; a reward model alone does not.
- `mean_weight`: a policy's chances add up to 1, so its weights' mean is 1. Refused where chance does not explain the
  distance (`SIGNIFICANCE` over all slots together, Bonferroni) and it is larger than what `outside` admits anyway.
- `propensities`: rates of showing by position stand in for propensities that a log lacks. Where what was shown depended
  on the user they are wrong, all other gates pass, and the sign of the difference may be the other one; so it takes
  whoever knows the logging policy to say that it did not (`replay.trust_estimated`).
- `calibration_*`: refused below `SIGNIFICANCE` (`ChiSquare.gate_p`): of a thousand right logs one is refused.
- `skew_share`, `skew_largest`: chances recomputed from logged float32 scores differ by some 1e-6 of their size. Where
  one in a hundred differs by more than `skew.ROUNDING`, or a single one by a twentieth, another policy, other
  candidates or other scores made these pages. Relative differences are what weights are off by.
- `a_a`: whoever made the logs, judged as if they were B, has weights of exactly 1 and a difference of exactly 0; else
  the arithmetic itself, or a marginal that was made for it, is wrong.
- `clipping`: no two clips, none larger than the chosen one, whose whole intervals lie on either side of the margin.
- `simpson`: the total goes one way and every slice of a group the other: the mix of pages, not the policy, makes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from pipelines.replay.config import ITEM, USER, ReplayConfig
from pipelines.replay.diagnostics import DiagnosticsReport
from pipelines.replay.estimates import Estimate
from pipelines.replay.estimators import primary, standard_estimators
from pipelines.replay.estimators.weights import Weights
from pipelines.replay.intervals import student_quantile
from pipelines.replay.pseudo_inverse import MOST_PAIRS, PSEUDO_INVERSE
from pipelines.replay.usable import BAD
from pipelines.replay.weight_sums import KINDS, POLICIES, WeightReport

SIGNIFICANCE = 0.001
MOST_SKEWED = 0.01
MOST_SKEW = 0.05
EFFECTIVE = "effective_sample"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One gate.

    Attributes:
        name: Unique among the gates of a replay.
        passed: Whether a verdict is possible as far as this gate is concerned.
        value: What was measured.
        threshold: What it is held against.
        says: The measurement in words, with what to do about it.
    """

    name: str
    passed: bool
    value: float
    threshold: float
    says: str

    def line(self) -> str:
        """Return it as a line for a terminal."""
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.says}"


def checks(
    report: DiagnosticsReport, estimates: Sequence[Estimate], config: ReplayConfig, *, users: int
) -> list[Check]:
    """Return all gates of a replay.

    Args:
        report: Of all pages.
        estimates: Of all estimators.
        config: With the thresholds.
        users: Distinct ones.
    """
    deciding = decider(estimates, config)
    found = [*input_checks(report.bad), *_amount(report, deciding, config, users), *_weights(report, deciding, config)]
    return [*found, *_propensities(report, config), *_consistency(report, estimates, config)]


def decider(estimates: Sequence[Estimate], config: ReplayConfig) -> Estimate:
    """Return the estimate that decides: of the estimator that the options name.

    Raises:
        ValueError: It is not among them.
    """
    known = {one.name: one for one in estimates}
    name = primary(config.estimator, slots=2 if "iips_dr" in known else 1)
    if name == PSEUDO_INVERSE and name not in known:
        raise ValueError(
            f"estimator: {name} expects pages of at most {MOST_PAIRS} pairs of position and candidate, whose log names "
            "the candidates, their scores, epsilon and temperature; some of these pages have more or lack them: let "
            "another estimator decide, or begin where the log has all (replay.since)"
        )
    if name not in known:
        raise ValueError(f"estimator: expected an estimate of {name}, got {', '.join(known) or 'none'}")
    return known[name]


def weights_kind(estimator: str) -> Weights | None:
    """Return the kind of weights that a standard estimator uses, None for none."""
    (found,) = (one for one in standard_estimators(slots=2) if one.name == estimator)
    weighted = found.formula(slots=2, parameter=found.grid[0] if found.grid else None).weighted
    return weighted[0].weights if weighted else None


def side(difference: float, error: float, quantile: float, margin: float) -> int:
    """Return 1 where a whole interval lies above the margin, -1 where below, else 0."""
    reach = quantile * error if error else 0.0
    return int(difference - reach > margin) - int(difference + reach < margin)


def input_checks(bad: Mapping[str, int], reasons: Iterable[str] = BAD) -> Iterator[Check]:
    """Yield a gate for each reason why pages are no evidence, given how many there are."""
    for reason in reasons:
        count = bad.get(reason, 0)
        says = f"{count:,} pages with {BAD[reason]}" if count else "none"
        yield Check(name=reason, passed=not count, value=count, threshold=0, says=says)


def at_least(name: str, value: float, threshold: float, says: str) -> Check:
    """Return a gate that a value passes which is no less than its threshold."""
    return Check(
        name=name,
        passed=bool(value >= threshold),
        value=float(value),
        threshold=threshold,
        says=f"{says}; at least {threshold:.6g}",
    )


def at_most(name: str, value: float, threshold: float, says: str) -> Check:
    """Return a gate that a value passes which is no more than its threshold."""
    return Check(
        name=name,
        passed=bool(value <= threshold),
        value=float(value),
        threshold=threshold,
        says=f"{says}; at most {threshold:.6g}",
    )


def stays_apart(low: float, high: float, less: float, more: float, margin: float, says: str) -> Check:
    """Return the gate that an interval passes which lies on one side of the margin even if it is shifted back to it.

    Args:
        low: Of the interval.
        high: Of the interval.
        less: By how much it may have to be lowered.
        more: By how much it may have to be raised.
        margin: What it is held against.
        says: What the end that is nearer to the margin is put down to.
    """
    toward = int(low > margin) - int(high < margin)
    end = high + more if toward < 0 else low - less
    passed = not toward or toward * (end - margin) > 0
    return Check(name="unseen_rewards", passed=passed, value=end, threshold=margin, says=f"{says} {end:.4g}")


def _amount(report: DiagnosticsReport, deciding: Estimate, config: ReplayConfig, users: int) -> Iterator[Check]:
    yield at_least("users", users, config.min_users, f"{users:,} users on {report.pages:,} pages")
    says = f"{report.rewarded_users:,} users have a reward"
    yield at_least("rewarded_users", report.rewarded_users, config.min_rewarded_users, says)
    yield _unseen(report, deciding.widened(), config, users)
    for policy, effective in zip(POLICIES, (deciding.effective_users_a, deciding.effective_users_b), strict=True):
        if effective is not None:
            says = f"the weights of {policy} leave as much as {effective:,.1f} users of equal weight would tell"
            yield at_least(f"{EFFECTIVE}_{policy}", effective, config.min_effective_sample, says)
        outside = report.outside[policy]
        says = (
            f"{outside:.2%} of what {policy} would show, the log could not show; it could have shown something of "
            f"{report.shows[policy]:.1%} of the pages"
        )
        yield at_most(f"outside_{policy}", outside, config.max_outside, says)


def _unseen(report: DiagnosticsReport, deciding: Estimate, config: ReplayConfig, users: int) -> Check:
    kind = weights_kind(deciding.name)
    less, more = report.unseen[kind if kind in KINDS else "page"]
    units = {ITEM: report.shown, USER: users}.get(config.unit, report.pages)
    says = "rewards that may not have come where the other policy weighs more would put the end at"
    return stays_apart(deciding.low, deciding.high, less / units, more / units, config.margin, says)


def _weights(report: DiagnosticsReport, deciding: Estimate, config: ReplayConfig) -> Iterator[Check]:
    promises = deciding.promise != "none"
    says = (
        f"{deciding.name} is {deciding.promise} if {deciding.assumption}" if promises else f"{deciding.name}: nothing"
    )
    yield Check(name="promise", passed=promises, value=float(promises), threshold=1, says=says)
    kind = weights_kind(deciding.name)
    for one in report.weights:
        if one.kind == kind:
            says = (
                f"{one.user_share:.2%} of the weight of {one.policy} lies on one user, {one.page_share:.2%} on one page"
            )
            yield at_most(f"weight_share_{one.policy}", one.user_share, config.max_weight_share, says)
            yield _mean_weight(one, config)


def _mean_weight(one: WeightReport, config: ReplayConfig) -> Check:
    tests = 2 * len(one.mean_P)
    quantile = float(stats.norm.isf(SIGNIFICANCE / 2 / tests))
    wrong = [abs(mean - 1) for mean, z in zip(one.mean_P, one.z_P, strict=True) if abs(z) > quantile]
    worst = int(np.argmax(np.abs(np.array(one.mean_P) - 1)))
    return at_most(
        f"mean_weight_{one.policy}",
        max(wrong, default=0.0),
        config.max_outside,
        f"the weights of {one.policy} in slot {worst + 1} have mean {one.mean_P[worst]:.4g} (z {one.z_P[worst]:.1f}, "
        f"chance up to {quantile:.1f}); farther from 1 than by chance, logged probabilities or candidates are wrong: "
        "mean - 1 of such",
    )


def _propensities(report: DiagnosticsReport, config: ReplayConfig) -> Iterator[Check]:
    yield Check(
        name="propensities",
        passed=config.trust_estimated or not report.estimated,
        value=float(report.estimated),
        threshold=0,
        says="estimated from rates of showing, wrong where what was shown depended on the user: log them, or set "
        "replay.trust_estimated=true where it did not"
        if report.estimated
        else "as logged",
    )
    for name, test in report.calibration.items():
        says = (
            f"chi-square {test.statistic:.3f} with {test.df:.1f} degrees of freedom; whatever the contexts, "
            f"p = {test.gate_p:.3g} of such rates of showing if logged probabilities are right"
        )
        yield at_least(f"calibration_{name}", test.gate_p, SIGNIFICANCE, says)
    skew = report.skew
    if skew.checked:
        share = skew.differing / skew.checked
        says = (
            f"{skew.differing:,} of {skew.checked:,} logged probabilities are not those that follow from logged scores"
        )
        yield at_most("skew_share", share, MOST_SKEWED, says)
        says = (
            f"of logged probabilities, those that follow from logged scores differ by up to {skew.largest:.3g} of them"
        )
        yield at_most("skew_largest", skew.largest, MOST_SKEW, says)


def _consistency(report: DiagnosticsReport, estimates: Sequence[Estimate], config: ReplayConfig) -> Iterator[Check]:
    off = float(np.maximum(report.self_weight, abs(report.self_difference)))
    says = (
        f"whoever made the logs, judged as if they were B: weights differ from 1 by {report.self_weight:.6g}, B - A is "
        f"{report.self_difference:.6g}"
    )
    yield at_most("a_a", off, 0, says)
    torn = _torn_by_clipping(estimates, config, clusters=report.clusters)
    says = f"clipping turns the sign of {', '.join(torn)}" if torn else "no clip up to the chosen one turns a sign"
    yield Check(name="clipping", passed=not torn, value=len(torn), threshold=0, says=says)
    turned = report.slices.reversed_groups
    says = (
        f"in {', '.join(turned)} every slice goes against the total"
        if turned
        else "no group of slices opposes the total"
    )
    yield Check(name="simpson", passed=not turned, value=len(turned), threshold=0, says=says)


def _torn_by_clipping(estimates: Sequence[Estimate], config: ReplayConfig, clusters: int) -> list[str]:
    """Return the estimators with the deciding one's weights of which two clips decide differently."""
    kind = weights_kind(decider(estimates, config).name)
    quantile = student_quantile(clusters, config.confidence)
    torn = []
    for one in estimates:
        if one.parameter is not None and weights_kind(one.name) == kind:
            tried = [point for point in one.path if point[0] >= one.parameter]
            sides = {side(difference, error, quantile, config.margin) for _, difference, error in tried}
            torn += [one.name] if {-1, 1} <= sides else []
    return torn
