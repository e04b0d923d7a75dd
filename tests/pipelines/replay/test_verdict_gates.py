"""Gates that forbid a verdict, on whole logs."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
from pathlib import Path

import numpy as np
import pytest
from replay_worlds import chances, rounds_of, target

from pipelines.replay.calibration import Calibration
from pipelines.replay.checks import checks
from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics
from pipelines.replay.estimates import estimates
from pipelines.replay.rounds import Rounds
from pipelines.replay.skew import Skew
from pipelines.replay.tally import Tally
from pipelines.replay.usable import usable
from pipelines.replay.verdict import Compared, Verdict, decide

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
COMPARED = Compared(challenger="r2", champion="r1", inputs="0f" * 8, time=NOON)
CONFIG = ReplayConfig(resamples=100)


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
    assert failed(verdict) == ["rewarded_users", "effective_sample_challenger", "weight_share_challenger"]
    rewarded, effective, share = (check.value for check in verdict.checks if not check.passed)
    assert (rewarded, effective, share) == (46, pytest.approx(2.0778, abs=1e-3), pytest.approx(0.694, abs=1e-3))


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
