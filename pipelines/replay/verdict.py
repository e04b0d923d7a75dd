"""Ship, do not ship, or not enough evidence.

The rule. Ship: all gates passed, the whole interval of the deciding estimator lies above the margin, that of its
self-normalised twin does, too, and no other estimator contradicts. Do not ship: all gates passed, both intervals lie
below the margin, and none contradicts. Else there is not enough evidence. The twin (`estimators.self_normalised`) has
the same weights divided by their own sum: where weights are not 1 on average, since a part of what a policy shows lies
outside the log, or by chance, the estimator takes that for a difference of values, and the twin does not. An estimator
contradicts if it promises something, its weights leave enough users, and its whole interval lies on the other side of
the margin. Where an estimator shrinks weights, its interval is first widened by the most that this may have cost.

How often it is wrong. If B is no better than the margin, `ship` is said with probability 1 - confidence at most: 5 %
with intervals of 95 %. With many users, one look and an estimator whose assumption holds, it is half of that for a B
that is just as good, and less for a worse one (`docs/replay.md` has measured rates); the other half is there for what
finite logs take from an interval. Gates and contradictions only take verdicts away. With always-valid intervals the
same holds over all looks.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipelines.replay.checks import EFFECTIVE, Check, decider
from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import Estimate
from pipelines.replay.estimators import self_normalised
from pipelines.replay.intervals import student_quantile
from pipelines.replay.planning import interval_quantile, minimum_detectable_effect, needed_users

Decision = Literal["ship", "do_not_ship", "not_enough_evidence"]
SHIP: Decision = "ship"
DO_NOT_SHIP: Decision = "do_not_ship"
NOT_ENOUGH: Decision = "not_enough_evidence"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What a verdict is about.

    Attributes:
        challenger: Release id of B, or what else it is.
        champion: Release id of A, or what else it is; None while there is no champion.
        inputs: Digest of the logged pages and all options.
        time: When it was judged, with a time zone.
        look: The how-manieth look at this pair it is, by other pages or options each.
        options: What decides, as it was asked for.
    """

    challenger: str
    champion: str | None
    inputs: str
    time: datetime.datetime
    look: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the evidence says of challenger B against champion A."""

    verdict: Decision
    compared: Compared
    estimator: str
    """The one that decided."""
    difference: float
    """B - A, in units of the reward."""
    low: float
    high: float
    """The interval that decided; widened by what shrinking weights may have cost."""
    margin: float
    confidence: float
    false_ship: float
    """How often at most a B no better than the margin is shipped, if the estimator's assumption holds."""
    because: tuple[str, ...]
    """What decided it, a line each."""
    missing: tuple[str, ...]
    """What a decision needs, a line each; empty where there is one."""
    checks: tuple[Check, ...]
    silent: tuple[str, ...]
    """Other estimators that are not good enough to contradict."""

    @property
    def promote(self) -> bool:
        """Whether B may become the champion."""
        return self.verdict == SHIP

    @property
    def rule(self) -> str:
        """The rule in words."""
        return rule(self.margin, self.false_ship, self.compared.look)

    def as_json(self) -> dict[str, Any]:
        """Return it as `Registry.promote` reads it."""
        fields = dataclasses.asdict(self)
        compared = fields.pop("compared")
        compared["time"] = self.compared.time.astimezone(datetime.UTC).isoformat()
        return finite({**compared, "promote": self.promote, **fields, "rule": self.rule})

    def lines(self) -> list[str]:
        """Return it as lines for a terminal."""
        words = self.verdict.replace("_", " ")
        lines = [
            f"verdict: {words}",
            f"  B - A = {self.difference:+.6g} ({self.low:+.6g} to {self.high:+.6g}, {self.confidence:.0%}), "
            f"by {self.estimator}",
        ]
        lines += [f"  because {line}" for line in self.because] + [f"  missing: {line}" for line in self.missing]
        return [*lines, f"  rule: {self.rule}"]


def finite(value: Any) -> Any:
    """Return a JSON value with null in place of numbers that JSON has no words for.

    Example:
        >>> finite({"low": float("-inf"), "high": (1.0, float("nan"))})
        {'low': None, 'high': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rule(margin: float, false_ship: float, look: int = 1) -> str:
    """Return the rule in words."""
    again = f". This is look {look} at this pair, by other pages or options: the always valid interval decides"
    return (
        f"ship if every gate passes, the whole interval of B - A lies above {margin:g}, so does that of the estimator's"
        " self-normalised twin (where it has one), and no other estimator that may speak lies wholly below; do not "
        "ship if both lie wholly below and none above; else not enough evidence. A challenger that is "
        f"no better than {margin:g} is shipped at most {false_ship:.2%} of the time{again if look > 1 else ''}"
    )


def decide(
    estimates: Sequence[Estimate],
    checks: Sequence[Check],
    config: ReplayConfig,
    *,
    compared: Compared,
    users: int,
    deciding: str | None = None,
    always_valid: bool = False,
) -> Verdict:
    """Return the verdict.

    Args:
        estimates: Of all estimators.
        checks: All gates.
        config: Margin, confidence, and which estimator decides.
        compared: What it is about.
        users: Distinct ones.
        deciding: Name of the estimate that decides; None for the one that the options name.
        always_valid: Decide by the intervals that hold however often one looks.

    Raises:
        ValueError: There is no estimate of the one that decides.
    """
    estimates = [one.widened() for one in estimates]
    found = decider(estimates, config) if deciding is None else _named(estimates, deciding)
    low, high = _interval(found, always_valid)
    sides = {one.name: _side(one, config.margin, always_valid) for one in estimates}
    toward = sides[found.name]
    failed = [check for check in checks if not check.passed]
    silent = {one.name for one in estimates if not _may_speak(one, config)} - {found.name}
    against = [one for one in estimates if toward * sides[one.name] < 0 and one.name not in silent]
    twin = self_normalised(found.name, slots=2 if "iips" in sides else 1)
    apart = [one for one in estimates if one.name == twin and toward not in (0, sides[twin])]
    decided = bool(toward) and not failed and not against and not apart
    missing = _missing(failed, against, apart, users) + (
        [] if toward else [_more_users(found, low, high, config, users, always_valid=always_valid)]
    )
    return Verdict(
        verdict=(SHIP if toward > 0 else DO_NOT_SHIP) if decided else NOT_ENOUGH,
        compared=compared,
        estimator=found.name,
        difference=found.difference,
        low=low,
        high=high,
        margin=config.margin,
        confidence=config.confidence,
        false_ship=1 - config.confidence,
        because=tuple(_because(toward, failed, against, apart, config.margin)),
        missing=tuple(missing),
        checks=tuple(checks),
        silent=tuple(one.name for one in estimates if one.name in silent),
    )


def _named(estimates: Sequence[Estimate], name: str) -> Estimate:
    for one in estimates:
        if one.name == name:
            return one
    raise ValueError(f"expected an estimate of {name}, got {', '.join(one.name for one in estimates) or 'none'}")


def _interval(one: Estimate, always_valid: bool) -> tuple[float, float]:
    return (one.always_valid_low, one.always_valid_high) if always_valid else (one.low, one.high)


def _side(one: Estimate, margin: float, always_valid: bool) -> int:
    """Return 1 for an interval wholly above the margin, -1 below, else 0; as far as more than rounding tells."""
    low, high = _interval(one, always_valid)
    rounding = _ROUNDING * max(abs(one.value_a), abs(one.value_b))
    return int(low > margin + rounding) - int(high < margin - rounding)


_NEEDS_UNIFORM_LOGS = "rejection"
_ROUNDING = 1e-9
"""A smaller part of a value is none of a difference: sums over pages are as exact as that."""


def _may_speak(one: Estimate, config: ReplayConfig) -> bool:
    """Return whether an estimator that does not decide is good enough to contradict the one that does."""
    users = [known for known in (one.effective_users_a, one.effective_users_b) if known is not None]
    means = [known for known in (one.mean_weight_a, one.mean_weight_b) if known is not None]
    shrunk = one.promise == "bounded"
    return (
        one.promise != "none"
        and one.name != _NEEDS_UNIFORM_LOGS
        and min(users, default=config.min_effective_sample) >= config.min_effective_sample
        and all(mean - 1 <= config.max_outside and (shrunk or 1 - mean <= config.max_outside) for mean in means)
    )


def _because(
    toward: int, failed: Sequence[Check], against: Sequence[Estimate], apart: Sequence[Estimate], margin: float
) -> list[str]:
    lies = {1: "lies above", -1: "lies below", 0: "holds"}[toward]
    lines = [f"the interval {lies} the margin of {margin:g}"]
    lines += [f"gate {check.name} failed: {check.says}" for check in failed] or ["every gate passed"]
    lines += [
        f"{one.name} says the opposite: {one.difference:+.6g} ({one.low:+.6g} to {one.high:+.6g})" for one in against
    ]
    lines += [
        f"{one.name}, the same with weights divided by their own sum, does not say so: {one.difference:+.6g} "
        f"({one.low:+.6g} to {one.high:+.6g})"
        for one in apart
    ]
    return lines


def _missing(failed: Sequence[Check], against: Sequence[Estimate], apart: Sequence[Estimate], users: int) -> list[str]:
    lines = [f"{check.name}: {check.value:.6g}, needed {check.threshold:.6g}" for check in failed]
    lines += [
        f"users: {more:,} more like these for enough of an effective sample" for more in _for_effective(failed, users)
    ]
    lines += [f"an explanation why {one.name} says the opposite: it assumes that {one.assumption}" for one in against]
    lines += [
        f"{one.name} on the same side of the margin: less of a policy outside the log, or more users" for one in apart
    ]
    return lines


def _for_effective(failed: Sequence[Check], users: int) -> list[int]:
    """Return how many more users raise the effective sample, which grows with them, to its threshold."""
    short = [check for check in failed if check.name.startswith(EFFECTIVE) and check.value > 0]
    needed = max((check.threshold / check.value for check in short), default=1.0)
    return [math.ceil(users * needed) - users] if short else []


def _more_users(
    found: Estimate, low: float, high: float, config: ReplayConfig, users: int, *, always_valid: bool
) -> str:
    """Say how many users would decide, if more of them gave the same difference and variance."""
    bias = found.bias_bound or 0.0  # which no number of users takes away
    effect, reach = abs(found.difference - config.margin) - bias, (high - low) / 2 - bias
    if effect <= 0 or not math.isfinite(reach):
        return "users: no number of them can be named, since the difference lies on the margin or its error is unknown"
    se = reach / (
        interval_quantile(users, config.confidence, always_valid=True)
        if always_valid
        else student_quantile(users, config.confidence)
    )
    after = users if always_valid else None
    smallest = minimum_detectable_effect(se, config.confidence, always_valid_users=after)
    more = needed_users(users, se, effect, config.confidence, always_valid=always_valid) - users
    return (
        f"users: {more:,} more than these {users:,} would show a difference from the margin as small as "
        f"{effect:.4g} four times out of five; these show one of {smallest:.4g}"
    )
