"""Gates and the rule of the verdict."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from replay_worlds import chances, rounds_of, target

from pipelines.replay.calibration import Calibration
from pipelines.replay.checks import Check, checks, decider, side, weights_kind
from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics
from pipelines.replay.estimates import Estimate, estimates
from pipelines.replay.intervals import always_valid_factor
from pipelines.replay.planning import needed_users
from pipelines.replay.rounds import Rounds
from pipelines.replay.skew import Skew
from pipelines.replay.tally import Tally
from pipelines.replay.usable import usable
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
    assert judged(estimate(), other).verdict == "ship"


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


def pages(count: int = 2000, *, seed: int = 0, users: int | None = None) -> Rounds:
    """Pages of one slot and two items, each shown with probability a half; item 1 is clicked, B shows it at 0.6."""
    rng = np.random.default_rng(seed)
    item_RP = rng.integers(2, size=(count, 1))
    logged, policy = chances(np.full((count, 1), 0.5)), chances(np.where(item_RP == 1, 0.6, 0.4))
    users_R = None if users is None else np.arange(count) % users
    return rounds_of(item_RP, logged, target(logged), target(policy), users_R=users_R)


def replayed(rounds: Rounds, config: ReplayConfig | None = None) -> Verdict:
    """Run a replay in memory."""
    config = config or CONFIG
    slots = rounds.there_RP.shape[1]
    rounds, bad = usable(rounds, config)
    diagnostics, tally = Diagnostics.empty(config, slots).add(rounds), Tally.empty(config, slots).add(rounds)
    diagnostics.note(bad)
    found, users = estimates(tally, config), tally.users.count()
    return decide(
        found, checks(diagnostics.report(), found, config, users=users), config, compared=COMPARED, users=users
    )


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def with_values(rounds: Rounds, **values: float) -> Rounds:
    """Return pages with a value changed on the first one: `logged`, `policy` or `reward`."""

    def changed(array_RP: np.ndarray, name: str) -> np.ndarray:  # type: ignore[type-arg]
        array_RP = array_RP.astype(float).copy()
        array_RP[0, 0] = values.get(name, array_RP[0, 0])
        return array_RP

    logged = chances(changed(rounds.logged.conditional_RP, "logged"))
    policy = chances(changed(rounds.challenger.chances.conditional_RP, "policy"))
    return dataclasses.replace(
        rounds,
        logged=logged,
        challenger=dataclasses.replace(rounds.challenger, chances=policy),
        rewards_RP=changed(rounds.rewards_RP, "reward"),
    )


def test_a_better_policy_on_good_pages_ships() -> None:
    """The truth is 0.6 - 0.5."""
    verdict = replayed(pages())
    assert (verdict.verdict, failed(verdict), verdict.estimator) == ("ship", [], "ips")
    assert verdict.low < 0.1 < verdict.high


def test_a_worse_one_does_not() -> None:
    rounds = pages()
    rounds = dataclasses.replace(rounds, champion=rounds.challenger, challenger=rounds.champion)
    assert replayed(rounds).verdict == "do_not_ship"


def test_the_same_policy_differs_by_exactly_nothing() -> None:
    rounds = pages()
    rounds = dataclasses.replace(rounds, champion=rounds.challenger)
    config = CONFIG
    assert {one.difference for one in estimates(Tally.empty(config, 1).add(rounds), config)} == {0.0}
    verdict = replayed(rounds)
    assert (verdict.verdict, verdict.difference, verdict.low, verdict.high) == ("not_enough_evidence", 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "gate", "says"),
    [
        ({"logged": float("nan")}, "missing_propensity", "1 pages with a shown item without the probability"),
        ({"logged": 0.0}, "zero_propensity", "shown with probability 0 or less"),
        ({"logged": 1.2}, "propensity_above_1", "log probabilities, not scores"),
        ({"reward": 7.0}, "reward_out_of_range", "1 pages with a reward that the weights in `replay.reward` cannot"),
        ({"policy": 1.2}, "bad_chance_of_policy", "1 pages with a compared policy that gives a probability outside"),
    ],
)
def test_one_impossible_number_forbids_a_verdict(values: dict[str, float], gate: str, says: str) -> None:
    verdict = replayed(with_values(pages(), **values))
    assert (verdict.verdict, failed(verdict)) == ("not_enough_evidence", [gate])
    assert any(says in line for line in verdict.because)


def test_estimated_propensities_forbid_a_verdict_unless_they_are_trusted() -> None:
    rounds = dataclasses.replace(pages(), propensities_estimated=True)
    verdict = replayed(rounds)
    assert (verdict.verdict, failed(verdict)) == ("not_enough_evidence", ["propensities"])
    assert any("set replay.trust_estimated=true where it did not" in line for line in verdict.because)
    assert replayed(rounds, dataclasses.replace(CONFIG, trust_estimated=True)).verdict == "ship"


def test_repeated_pages_forbid_a_verdict() -> None:
    config, rounds = CONFIG, pages()
    diagnostics, tally = Diagnostics.empty(config, 1).add(rounds), Tally.empty(config, 1).add(rounds)
    diagnostics.note({"duplicate": 3})
    gates = checks(diagnostics.report(), estimates(tally, config), config, users=2000)
    (gate,) = [check for check in gates if not check.passed]
    assert (
        gate.line()
        == "FAILED  duplicate: 3 pages with a page that the log holds before: leave out repeated request ids"
    )


def test_few_users_forbid_a_verdict() -> None:
    verdict = replayed(pages(users=150))
    assert failed(verdict)[0] == "users"
    assert "users: 150, needed 200" in verdict.missing


def test_one_user_with_all_the_weight_forbids_a_verdict() -> None:
    rounds = pages()
    users_R = np.where(np.arange(2000) < 1000, 0, np.arange(2000)).astype(np.uint64)
    verdict = replayed(dataclasses.replace(rounds, users_R=users_R))
    assert verdict.verdict == "not_enough_evidence"
    assert {"weight_share_challenger", "effective_sample_challenger"} <= set(failed(verdict))
    assert any("of the weight of challenger lies on one user" in line for line in verdict.because)


def test_a_policy_that_shows_nothing_of_the_log_gets_no_verdict() -> None:
    rounds = pages()
    nothing = target(chances(np.zeros((2000, 1))))
    verdict = replayed(dataclasses.replace(rounds, challenger=dataclasses.replace(nothing, outside_R=np.ones(2000))))
    assert verdict.verdict == "not_enough_evidence"
    assert {"outside_challenger", "effective_sample_challenger"} <= set(failed(verdict))
    assert any("it could have shown something of 0.0% of the pages" in line for line in verdict.because)


def test_what_lies_outside_the_log_is_taken_for_no_difference() -> None:
    """All items earn alike; the champion shows one of 25 that the log never does, so that IPS gives it 4 % less."""
    rng, shape = np.random.default_rng(1), (20_000, 1)
    champion = dataclasses.replace(target(chances(np.full(shape, 0.48))), outside_R=np.full(20_000, 0.04))
    rewards_RP = (rng.random(shape) < 0.2).astype(float)
    half = chances(np.full(shape, 0.5))
    verdict = replayed(rounds_of(rewards_RP, half, champion, target(half), users_R=np.arange(20_000) % 6000))
    assert failed(verdict) == []
    assert verdict.low > 0
    assert verdict.verdict == "not_enough_evidence"
    assert any(line.startswith("snips, the same with weights divided by") for line in verdict.because)
    assert verdict.missing == ("snips on the same side of the margin: less of a policy outside the log, or more users",)


def rare_rewards(rewarded: int, opposite: int, pages: int = 4000) -> Rounds:
    """The log shows item 0 on 95 of 100 pages, as the champion does; the challenger shows nothing else.

    So many pages have a reward, `opposite` of them with item 1.
    """
    item_R = (np.arange(pages) % 20 == 0).astype(int)
    rewards_RP = np.zeros((pages, 1))
    rewards_RP[np.flatnonzero(item_R == 0)[: rewarded - opposite]] = 1
    rewards_RP[np.flatnonzero(item_R == 1)[:opposite]] = 1
    logged = chances(np.where(item_R == 0, 0.95, 0.05)[:, None])
    return rounds_of(rewards_RP, logged, target(logged), target(chances((item_R == 0).astype(float)[:, None])))


def test_few_rewards_forbid_a_verdict() -> None:
    verdict = replayed(rare_rewards(99, 0))
    assert {"rewarded_users"} <= set(failed(verdict))
    assert "rewarded_users: 99, needed 100" in verdict.missing


@pytest.mark.parametrize("swapped", [False, True])
def test_rewards_that_may_only_not_have_come_forbid_a_verdict(swapped: bool) -> None:
    """Of 50 rewards each adds 1 / 0.95 - 1; one with item 1 takes 1 away, and 3 all that there are."""
    rounds, config = rare_rewards(50, 0), dataclasses.replace(CONFIG, min_rewarded_users=0)
    if swapped:
        rounds = dataclasses.replace(rounds, champion=rounds.challenger, challenger=rounds.champion)
    verdict = replayed(rounds, config)
    assert (failed(verdict), verdict.verdict) == (["unseen_rewards"], "not_enough_evidence")
    end = verdict.high if swapped else verdict.low
    (gate,) = [check for check in verdict.checks if not check.passed]
    assert gate.value == pytest.approx(end + 3 / 4000 if swapped else end - 3 / 4000)
    assert replayed(rare_rewards(200, 0)).verdict == "ship", "10.5 and its error, 0.7: 3 more are not enough"


def test_much_of_a_policy_outside_the_log_forbids_a_verdict() -> None:
    rounds = pages()
    outside = dataclasses.replace(rounds.challenger, outside_R=np.full(2000, 0.06))
    verdict = replayed(dataclasses.replace(rounds, challenger=outside))
    assert failed(verdict) == ["outside_challenger"]
    assert "outside_challenger: 0.06, needed 0.05" in verdict.missing


def open_bandit(path: Path, items: int) -> Rounds:
    """Return what Thompson sampling logged of a campaign, and whether showing all items alike is better."""
    if not path.exists():
        pytest.skip(f"there is no {path}")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = [(float(row["propensity_score"]), float(row["click"])) for row in csv.DictReader(file)]
    propensity_RP, click_RP = (np.array(column)[:, None] for column in zip(*rows, strict=True))
    logged = chances(propensity_RP)
    uniform = chances(np.full_like(propensity_RP, 1 / items))
    return rounds_of(click_RP, logged, target(logged), target(uniform))


@pytest.mark.integration
def test_open_bandits_men_clicked_too_seldom_to_tell(real_data: Path) -> None:
    """On line, showing them all items alike had 46 clicks of 10,000, Thompson sampling 69; so it looks here, too."""
    verdict = replayed(open_bandit(real_data / "open_bandit_sample/bts/men/men.csv.gz", items=34))
    assert verdict.difference == pytest.approx(-0.00389137, abs=1e-8)
    assert verdict.high < 0
    assert (verdict.verdict, failed(verdict)) == ("not_enough_evidence", ["rewarded_users", "unseen_rewards"])
    assert "rewarded_users: 69, needed 100" in verdict.missing


@pytest.mark.integration
def test_open_bandits_women_are_refused() -> None:
    obp = pytest.importorskip("obp", reason="obp is not installed")
    path = Path(obp.__file__).parent / "dataset/obd/bts/women/women.csv"
    verdict = replayed(open_bandit(path, items=46))
    assert verdict.verdict == "not_enough_evidence"
    assert failed(verdict) == ["effective_sample_challenger", "weight_share_challenger"]
    (effective, share) = (check for check in verdict.checks if not check.passed)
    assert (effective.value, share.value) == (pytest.approx(2.0778, abs=1e-3), pytest.approx(0.694, abs=1e-3))


def test_one_page_with_most_of_the_weight_forbids_a_verdict() -> None:
    """As in Open Bandit's women campaign: one of 10,000 rows carries 69 % of all weight; two users' worth is left."""
    rounds = pages(10_000)
    weights = np.full((10_000, 1), 0.9593)
    weights[0] = 21739.13
    policy = chances(np.minimum(weights * 1e-5, 1.0))
    rounds = dataclasses.replace(rounds, logged=chances(np.full((10_000, 1), 1e-5)), challenger=target(policy))
    verdict = replayed(rounds)
    share = next(check for check in verdict.checks if check.name == "weight_share_challenger")
    effective = next(check for check in verdict.checks if check.name == "effective_sample_challenger")
    assert share.value == pytest.approx(0.694, abs=0.01)
    assert effective.value == pytest.approx(2.08, abs=0.1)
    assert verdict.verdict == "not_enough_evidence"


def test_weights_that_are_not_1_on_average_forbid_a_verdict() -> None:
    """Propensities logged a fifth too small."""
    rounds = pages()
    logged = chances(rounds.logged.conditional_RP / 1.2)
    verdict = replayed(dataclasses.replace(rounds, logged=logged, champion=target(logged)))
    assert failed(verdict) == ["mean_weight_challenger"]
    check = next(check for check in verdict.checks if check.name == "mean_weight_challenger")
    assert check.value == pytest.approx(0.2, abs=0.02)


def test_a_reward_model_alone_decides_nothing() -> None:
    verdict = replayed(pages(), dataclasses.replace(CONFIG, estimator="dm"))
    assert "promise" in failed(verdict)


@pytest.mark.parametrize(
    ("skew", "gates"),
    [
        (Skew(checked=10_000, differing=100, largest=0.05), []),
        (Skew(checked=10_000, differing=101, largest=0.05), ["skew_share"]),
        (Skew(checked=10_000, differing=1, largest=0.051), ["skew_largest"]),
        (Skew(checked=1, differing=1, largest=float("nan")), ["skew_share", "skew_largest"]),
        (Skew(unknown=10_000), []),
    ],
)
def test_recomputed_propensities_that_differ_forbid_a_verdict(skew: Skew, gates: list[str]) -> None:
    config, rounds = CONFIG, pages()
    diagnostics = Diagnostics.empty(config, 1).add(rounds)
    diagnostics.note_skew(skew)
    found = checks(diagnostics.report(), estimates(Tally.empty(config, 1).add(rounds), config), config, users=2000)
    assert [check.name for check in found if not check.passed] == gates


def test_small_propensities_logged_a_tenth_too_large_differ() -> None:
    """Of 3,000 candidates each has a third of a thousandth: an absolute difference would be a rounding error."""
    skew = Skew.of(np.full(50, 1 / 3000), np.full(50, 1.1 / 3000))
    assert (skew.differing, skew.largest) == (50, pytest.approx(1 - 1 / 1.1))
    assert Skew.of(np.full(50, 1 / 3000), np.full(50, np.float32(1 / 3000))).differing == 0


def test_items_that_are_shown_at_other_rates_than_logged_forbid_a_verdict() -> None:
    config, rounds = CONFIG, pages()
    diagnostics = Diagnostics.empty(config, 1).add(rounds)
    counts, items_R = Calibration(), (np.random.default_rng(1).random(2000) < 0.6).astype(np.uint64)
    counts.items.add(items_R, np.zeros(2000, dtype=np.int64), rounds.logged.conditional_RP[:, 0])
    diagnostics.note_calibration(counts)
    gates = checks(diagnostics.report(), estimates(Tally.empty(config, 1).add(rounds), config), config, users=2000)
    assert [check.name for check in gates if not check.passed] == ["calibration_items"]


def test_clips_that_decide_differently_forbid_a_verdict() -> None:
    """Of what the choice of the clip allows, one whole interval lies above 0 and one below."""
    config, rounds = CONFIG, pages()
    report = Diagnostics.empty(config, 1).add(rounds).report()
    found = estimates(Tally.empty(config, 1).add(rounds), config)
    torn = dataclasses.replace(found[1], parameter=2.0, path=((5.0, 0.3, 0.1), (2.0, -0.3, 0.1), (1.0, 0.0, 1.0)))
    gates = checks(report, [found[0], torn, *found[2:]], config, users=2000)
    assert [check.says for check in gates if not check.passed] == ["clipping turns the sign of clipped_ips"]
    larger = dataclasses.replace(torn, parameter=5.0)
    assert all(check.passed for check in checks(report, [found[0], larger, *found[2:]], config, users=2000))


def test_sides_of_the_margin() -> None:
    assert [side(difference, 0.1, 2.0, 0.5) for difference in (0.71, 0.7, 0.3, 0.29)] == [1, 0, 0, -1]
    assert side(0.6, 0.0, float("inf"), 0.5) == 1


def test_the_weights_of_estimators() -> None:
    names = ("ips", "iips_dr", "cascade_dr", "mips", "dm", "switch_dr")
    assert [weights_kind(name) for name in names] == ["page", "position", "prefix", "cluster", None, "page"]
