"""The rule of the verdict."""

from __future__ import annotations

import dataclasses
import datetime
import json

import numpy as np
import pytest

from pipelines.replay.checks import Check, decider, side, weights_kind
from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import Estimate
from pipelines.replay.intervals import always_valid_factor
from pipelines.replay.planning import needed_users
from pipelines.replay.verdict import Compared, Verdict, decide, rule

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
COMPARED = Compared(challenger="r2", champion="r1", inputs="0f" * 8, time=NOON)
CONFIG = ReplayConfig(resamples=100)
PASSED = Check(name="users", passed=True, value=500, threshold=200, says="500 users; at least 200")
FAILED = Check(name="users", passed=False, value=20, threshold=200, says="20 users; at least 200")


def estimate(name: str = "ips", low: float = 0.1, high: float = 0.3, **changes: object) -> Estimate:
    """Return an estimate in the middle of its interval."""
    return dataclasses.replace(
        Estimate(
            name=name,
            value_a=0.0,
            value_b=(low + high) / 2,
            difference=(low + high) / 2,
            se=(high - low) / 4,
            low=low,
            high=high,
            bootstrap_low=low,
            bootstrap_high=high,
            always_valid_low=low - 0.15,
            always_valid_high=high + 0.15,
            promise="unbiased",
            assumption="all is well",
            bias_bound=None,
            parameter=None,
            path=(),
            mean_weight_a=1.0,
            mean_weight_b=1.0,
            effective_users_a=500.0,
            effective_users_b=500.0,
        ),
        **changes,  # type: ignore[arg-type]
    )


def judged(*found: Estimate, gates: tuple[Check, ...] = (PASSED,), margin: float = 0.0, **options: bool) -> Verdict:
    return decide(found, gates, ReplayConfig(margin=margin), compared=COMPARED, users=500, **options)


# The rule.


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.1, 0.3, 0.0, "ship"),
        (0.1, 0.3, 0.05, "ship"),
        (0.1, 0.3, 0.1, "not_enough_evidence"),
        (0.1, 0.3, 0.4, "do_not_ship"),
        (-0.1, 0.3, 0.0, "not_enough_evidence"),
        (-0.3, -0.1, 0.0, "do_not_ship"),
        (0.0, 0.0, 0.0, "not_enough_evidence"),
        (float("-inf"), float("inf"), 0.0, "not_enough_evidence"),
        (float("nan"), float("nan"), 0.0, "not_enough_evidence"),
    ],
)
def test_the_whole_interval_must_lie_on_one_side_of_the_margin(
    low: float, high: float, margin: float, expected: str
) -> None:
    verdict = judged(estimate(low=low, high=high), margin=margin)
    assert verdict.verdict == expected
    assert verdict.promote is (expected == "ship")
    assert bool(verdict.missing) is (expected == "not_enough_evidence")


@pytest.mark.parametrize("low", [0.1, -0.3])
def test_a_failed_gate_forbids_either_decision_and_is_named(low: float) -> None:
    verdict = judged(estimate(low=low, high=low + 0.2), gates=(PASSED, FAILED))
    assert verdict.verdict == "not_enough_evidence"
    assert "gate users failed: 20 users; at least 200" in verdict.because
    assert verdict.missing == ("users: 20, needed 200",)


def test_an_estimator_that_lies_wholly_on_the_other_side_contradicts() -> None:
    verdict = judged(estimate(), estimate("mips", low=-0.2, high=-0.1))
    assert verdict.verdict == "not_enough_evidence"
    assert any(line.startswith("mips says the opposite") for line in verdict.because)
    assert verdict.missing == ("an explanation why mips says the opposite: it assumes that all is well",)


@pytest.mark.parametrize(
    "changes",
    [
        {"low": -0.2, "high": 0.01},
        {"promise": "none"},
        {"name": "rejection"},
        {"effective_users_b": 199.0},
        {"effective_users_a": 10.0},
        {"mean_weight_b": 0.9},
        {"mean_weight_a": 1.1},
        {"promise": "bounded", "bias_bound": 0.11},
    ],
)
def test_who_may_not_contradict(changes: dict[str, object]) -> None:
    other = estimate(**({"name": "mips", "low": -0.2, "high": -0.1} | changes))  # type: ignore[arg-type]
    verdict = judged(estimate(), other)
    assert verdict.verdict == "ship"
    assert verdict.silent == (() if changes.keys() & {"low", "bias_bound"} else (other.name,))


def test_shrunk_weights_may_be_lighter_than_1_on_average() -> None:
    other = estimate("clipped_ips", -0.2, -0.1, promise="bounded", bias_bound=0.01, mean_weight_b=0.7)
    assert judged(estimate(), other).verdict == "not_enough_evidence"


@pytest.mark.parametrize("low", [0.1, -0.3])
def test_the_self_normalised_twin_must_lie_on_the_same_side(low: float) -> None:
    one = estimate(low=low, high=low + 0.2)
    assert judged(one, estimate("snips", low, low + 0.2)).verdict == ("ship" if low > 0 else "do_not_ship")
    verdict = judged(one, estimate("snips", -0.1, 0.1))
    assert verdict.verdict == "not_enough_evidence"
    assert any(line.startswith("snips, the same with weights divided by their own sum") for line in verdict.because)
    assert judged(one, estimate("sniips", -0.1, 0.1)).verdict != "not_enough_evidence", "not its twin"
    assert judged(estimate(low=-0.1, high=0.1), estimate("snips", -0.1, 0.1)).missing[0].startswith("users"), "no side"


def test_an_interval_is_widened_by_what_shrinking_may_have_cost() -> None:
    verdict = judged(estimate(bias_bound=0.05))
    assert (verdict.low, verdict.high, verdict.verdict) == (pytest.approx(0.05), pytest.approx(0.35), "ship")
    assert judged(estimate(bias_bound=0.1)).verdict == "not_enough_evidence"


def test_the_always_valid_interval_decides_where_one_may_look_often() -> None:
    verdict = judged(estimate(), always_valid=True)
    assert (verdict.low, verdict.verdict) == (pytest.approx(-0.05), "not_enough_evidence")
    assert verdict.false_ship == pytest.approx(0.05)
    assert judged(estimate()).false_ship == pytest.approx(0.05)


def test_it_says_how_many_more_users_would_decide() -> None:
    """At 500 users and standard error s, a difference of d needs 500 (2.8016 s / d)^2 of them."""
    verdict = judged(estimate(low=-0.1, high=0.3))
    (line,) = verdict.missing
    needed = 500 * (2.80158 * (0.2 / 1.96472) / 0.1) ** 2
    assert line.startswith(f"users: {int(np.ceil(needed)) - 500:,} more than these 500 would show a difference")
    assert "as small as 0.1 four times out of five; these show one of 0.2852" in line


def test_the_always_valid_interval_needs_more_users_to_decide() -> None:
    """It reaches 0.25 to either side, and as many standard errors as 500 users give it."""
    verdict = judged(estimate(), always_valid=True)
    se = 0.25 / (np.sqrt(500) * always_valid_factor(500, 0.95))
    more = needed_users(500, se, 0.2, 0.95, always_valid=True) - 500
    assert verdict.missing[0].startswith(f"users: {more:,} more than these 500 would show")
    assert f"these show one of {se * (0.25 / se + 0.841621):.4g}" in verdict.missing[0]


def test_what_shrinking_may_have_cost_goes_away_with_no_number_of_users() -> None:
    assert "no number of them can be named" in judged(estimate(bias_bound=0.2)).missing[0]


def test_it_says_how_many_more_users_make_the_effective_sample_large_enough() -> None:
    """At 50 of 500 users' worth, 200 take four times as many."""
    short = Check(name="effective_sample_challenger", passed=False, value=50.0, threshold=200.0, says="few")
    missing = judged(estimate(), gates=(short,)).missing
    assert missing[1] == "users: 1,500 more like these for enough of an effective sample"
    nothing = dataclasses.replace(short, value=0.0)
    assert len(judged(estimate(), gates=(nothing,)).missing) == 1, "no number of them helps"


def test_no_number_of_users_decides_what_lies_on_the_margin() -> None:
    assert "no number of them can be named" in judged(estimate(low=-0.1, high=0.1)).missing[0]


def test_the_options_or_the_caller_name_the_estimator_that_decides() -> None:
    found = [estimate("ips", -1, 1), estimate("dr"), estimate("iips_dr", -2, -1)]
    assert decider(found, CONFIG).name == "iips_dr", "longer pages have position weights"
    assert decider(found[:2], CONFIG).name == "ips"
    assert decider(found, ReplayConfig(estimator="dr")).name == "dr"
    named = decide(found[:2], [PASSED], CONFIG, compared=COMPARED, users=500, deciding="dr")
    assert (named.estimator, named.verdict) == ("dr", "ship")
    with pytest.raises(ValueError, match="expected an estimate of ips, got dr"):
        decider([estimate("dr")], CONFIG)
    with pytest.raises(ValueError, match="expected an estimate of cuped, got dr"):
        decide([estimate("dr")], [], CONFIG, compared=COMPARED, users=5, deciding="cuped")


def test_its_json_is_what_promoting_reads() -> None:
    document = judged(estimate(low=float("-inf"), high=0.3)).as_json()
    assert {name: document[name] for name in ("challenger", "champion", "promote", "verdict", "inputs", "time")} == {
        "challenger": "r2",
        "champion": "r1",
        "promote": False,
        "verdict": "not_enough_evidence",
        "inputs": "0f" * 8,
        "time": "2026-01-02T12:00:00+00:00",
    }
    assert document["low"] is None, "JSON has no infinity"
    assert document["checks"][0]["name"] == "users"
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["rule"] == rule(0.0, 1 - 0.95)
    assert "is shipped at most 5.00% of the time" in document["rule"]


def test_its_lines_begin_with_the_decision() -> None:
    lines = judged(estimate()).lines()
    assert lines[0] == "verdict: ship"
    assert "B - A = +0.2 (+0.1 to +0.3, 95%), by ips" in lines[1]


# Gates, on pages.


def test_sides_of_the_margin() -> None:
    assert [side(difference, 0.1, 2.0, 0.5) for difference in (0.71, 0.7, 0.3, 0.29)] == [1, 0, 0, -1]
    assert side(0.6, 0.0, float("inf"), 0.5) == 1


def test_the_weights_of_estimators() -> None:
    names = ("ips", "iips_dr", "cascade_dr", "mips", "dm", "switch_dr")
    assert [weights_kind(name) for name in names] == ["page", "position", "prefix", "cluster", None, "page"]
