"""What the diagnoses of logged pages say, against arithmetic and published numbers."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from replay_worlds import chances, rounds_of, target
from scipy import stats

from pipelines.replay.calibration import BinCounts, Calibration, ItemCounts, bin_masses
from pipelines.replay.checks import checks
from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics, DiagnosticsReport
from pipelines.replay.estimates import estimates
from pipelines.replay.rounds import Floats, Hashes, Ints, Rounds, concatenated
from pipelines.replay.skew import Skew
from pipelines.replay.tally import Tally
from pipelines.replay.usable import BAD, usable
from pipelines.replay.weight_sums import EDGES, KINDS

CONFIG = ReplayConfig(resamples=100)
TOY_POLICY = np.array([[0.2], [0.7], [0.4], [0.6], [0.5], [0.5]])
TOY_LOGGED = np.array([[0.5], [0.3], [0.2], [0.6], [0.25], [0.1]])


def report_of(rounds: Rounds, config: ReplayConfig | None = None) -> DiagnosticsReport:
    config = config or ReplayConfig()
    return Diagnostics.empty(config, rounds.there_RP.shape[1]).add(rounds).report()


def toy() -> Rounds:
    logged = chances(TOY_LOGGED)
    return rounds_of([[1], [0], [1], [0], [1], [1]], logged, target(logged), target(chances(TOY_POLICY)))


def world(pages: int, seed: int, users: int | None = None, slots: int = 3) -> tuple[Rounds, Hashes, Floats]:
    """Return pages of five items drawn slot by slot from chances of their own, a policy that likes item 0 better, the
    items shown and the chances of all."""
    rng = np.random.default_rng(seed)
    logged_RPN = 0.5 * rng.dirichlet(np.full(5, 2.0), (pages, slots)) + 0.1
    policy_RPN = 0.7 * logged_RPN + 0.3 * np.eye(5)[0]
    items_RP = (logged_RPN.cumsum(axis=2) > rng.random((pages, slots, 1))).argmax(axis=2).astype(np.uint64)
    rewards_RP = (rng.random((pages, slots)) < 0.1 + 0.1 * (items_RP == 0)).astype(float)

    def of(chances_RPN: Floats) -> Floats:
        return np.take_along_axis(chances_RPN, items_RP[:, :, None].astype(int), axis=2)[:, :, 0]

    logged = chances(of(logged_RPN))
    users_R = None if users is None else rng.integers(users, size=pages)
    rounds = rounds_of(rewards_RP, logged, target(logged), target(chances(of(policy_RPN))), users_R=users_R)
    return rounds, items_RP, logged_RPN


def test_the_toy_weights() -> None:
    weights = np.array([0.4, 7 / 3, 2, 1, 2, 5])
    found = report_of(toy()).weight("challenger", "page")
    assert found.effective_pages == pytest.approx(4.0939288520, abs=1e-9), "Open Bandit Pipeline 0.5.7"
    assert found.effective_users == pytest.approx(4.0939288520, rel=0.02), "few users, nearly all buckets empty"
    assert found.mean_P == pytest.approx([weights.mean()])
    z = (weights - 1).sum() / np.sqrt(6 * (weights - 1).var(ddof=1))
    assert found.z_P == pytest.approx([z])
    assert (found.largest, found.zero_share, found.p99) == (5.0, 0.0, 5.0)
    assert found.page_share == pytest.approx(5 / weights.sum())
    assert found.user_share == pytest.approx(5 / weights.sum())
    assert found.top_share == pytest.approx(1.0), "ten of six pages are all of them"
    assert sum(found.histogram) == 6


def test_all_kinds_agree_on_pages_of_one_slot_and_a_policy_that_logged_weighs_1() -> None:
    report = report_of(toy())
    for kind in KINDS:
        assert report.weight("challenger", kind).largest == 5.0
        mine = report.weight("champion", kind)
        assert (mine.mean_P, mine.z_P, mine.largest) == ((1.0,), (0.0,), 1.0)
        assert mine.effective_pages == pytest.approx(6)


def test_whoever_made_the_logs_weighs_exactly_1_and_differs_from_themselves_by_exactly_0() -> None:
    rounds, _, _ = world(500, seed=3)
    found = report_of(rounds)
    assert (found.self_weight, found.self_difference) == (0.0, 0.0)
    marginal_RP = rounds.logged.marginal_RP.copy()
    marginal_RP[7, 1] = np.inf
    broken = dataclasses.replace(rounds, logged=dataclasses.replace(rounds.logged, marginal_RP=marginal_RP))
    with np.errstate(invalid="ignore"):
        report = report_of(broken)
    assert np.isnan(report.self_weight)
    gates = checks(report, estimates(Tally.empty(CONFIG, 3).add(rounds), CONFIG), CONFIG, users=500)
    assert [(gate.passed, gate.threshold) for gate in gates if gate.name == "a_a"] == [(False, 0)]


def test_the_99th_percentile_is_at_most_one_bin_too_large() -> None:
    policy = np.linspace(0.001, 0.999, 1000)[:, None]
    logged = np.full((1000, 1), 0.5)
    rounds = rounds_of(np.zeros((1000, 1)), chances(logged), target(chances(policy)), target(chances(policy)))
    found = report_of(rounds).weight("challenger", "page").p99
    exact = np.quantile(policy / logged, 0.99)
    assert exact <= found <= exact * EDGES[1] / EDGES[0]


def test_pages_of_one_user_are_one_user() -> None:
    """Ten users of equal pages but one, who has half of all."""
    users_R = np.array([0] * 9 + list(range(1, 10)))
    logged = chances(np.full((18, 1), 0.5))
    rounds = rounds_of(np.zeros((18, 1)), logged, target(logged), target(logged), users_R=users_R)
    found = report_of(rounds).weight("challenger", "page")
    assert (found.user_share, found.page_share) == (pytest.approx(9 / 18), pytest.approx(1 / 18))
    assert found.effective_pages == pytest.approx(18)
    assert found.effective_users == pytest.approx(18**2 / (9**2 + 9), rel=0.02)


def test_effective_users_do_not_shrink_when_users_share_buckets() -> None:
    """Twenty thousand users of equal weight in a hundred buckets; the spread of buckets tells it to 15 %."""
    logged = chances(np.full((20_000, 1), 0.5))
    rounds = rounds_of(np.zeros((20_000, 1)), logged, target(logged), target(logged))
    found = report_of(rounds, ReplayConfig(buckets=100)).weight("challenger", "page").effective_users
    assert 0.7 < found / 20_000 < 1.5


def test_parts_merged_in_any_order_say_the_same_and_travel_small() -> None:
    rounds, items_RP, chances_RPN = world(900, seed=1, users=300)
    config = ReplayConfig(buckets=128)
    parts = np.array_split(np.arange(900), [100, 500])

    def tallied(rows: Ints) -> Diagnostics:
        one = Diagnostics.empty(config, 3)
        one.note({"duplicate": len(rows)})
        one.note_skew(Skew(checked=len(rows), differing=1, largest=len(rows) / 1e9))
        counts, propensities_RP = Calibration(), rounds.logged.conditional_RP[rows]
        counts.items.add(*flat(items_RP[rows], propensities_RP))
        counts.bins.add(propensities_RP, bin_masses(chances_RPN[rows]), rounds.there_RP[rows])
        one.note_calibration(counts)
        return one.add(rounds.take(rows))

    whole = tallied(np.arange(900)).report()
    first, second, third = (pickle.loads(pickle.dumps(tallied(rows))) for rows in parts)
    merged = third.merge(first).merge(second).report()
    assert (merged.pages, merged.shown, merged.bad) == (900, 2700, {"duplicate": 900})
    assert (whole.skew.largest, merged.skew.largest) == (900 / 1e9, 400 / 1e9), "the largest"
    assert (merged.skew.checked, whole.skew.differing) == (900, 1)
    for one, other in zip(whole.weights, merged.weights, strict=True):
        assert one.histogram == other.histogram
        assert one.effective_users == pytest.approx(other.effective_users, rel=1e-12)
        assert one.z_P == pytest.approx(other.z_P, rel=1e-9)
        assert (one.largest, one.top_share) == pytest.approx((other.largest, other.top_share))
    for name, test in whole.calibration.items():
        assert merged.calibration[name].statistic == pytest.approx(test.statistic)
    assert merged.slices.total == pytest.approx(whole.slices.total)
    assert len(pickle.dumps(Diagnostics.empty(ReplayConfig(), slots=10))) < 4e6


def test_no_page_is_no_division_by_zero() -> None:
    report = Diagnostics.empty(ReplayConfig(), slots=2).report()
    assert (report.pages, report.shows["champion"], report.weights[0].p99, report.calibration) == (0, 0.0, 0.0, {})


def test_what_the_log_could_not_show_and_what_the_policy_never_shows() -> None:
    logged = chances([[0.5, 0.5], [0.5, 0.5]])
    policy = target(chances([[0.0, 0.5], [0.0, 0.0]]))
    rounds = rounds_of(
        np.zeros((2, 2)), logged, target(logged), dataclasses.replace(policy, outside_R=np.array([0.25, 1.0]))
    )
    report = report_of(rounds)
    assert report.outside == {"champion": 0.0, "challenger": 0.625}
    assert report.shows == {"champion": 1.0, "challenger": 0.5}
    assert report.weight("challenger", "position").zero_share == 0.75
    assert report.weight("challenger", "page").zero_share == 1.0


# Propensities against rates of showing.


def flat(items_RP: Hashes, propensities_RP: Floats) -> tuple[Hashes, Ints, Floats]:
    """Return items, slots and propensities of pages that are full."""
    slots_RP = np.broadcast_to(np.arange(items_RP.shape[1]), items_RP.shape)
    return items_RP.ravel(), slots_RP.ravel(), propensities_RP.ravel()


def test_uniform_propensities_give_pearsons_chi_square() -> None:
    rng = np.random.default_rng(3)
    items_RP = rng.integers(4, size=(1000, 2), dtype=np.uint64)
    counts = ItemCounts()
    counts.add(*flat(items_RP, np.full((1000, 2), 0.25)))
    observed = [np.bincount(items_RP[:, slot].astype(int), minlength=4) for slot in (0, 1)]
    found = counts.test()
    assert found.statistic == pytest.approx(sum(((one - 250) ** 2 / 250).sum() for one in observed))
    assert (found.df, found.cells) == (pytest.approx(2 * 3), 8)
    assert found.p == pytest.approx(stats.chi2.sf(found.statistic, 6))


def test_right_propensities_of_any_context_pass_at_the_nominal_rate_and_wrong_ones_fail() -> None:
    names = ("items", "bins", "wrong items", "wrong bins")
    p_values: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(60):
        rounds, items_RP, chances_RPN = world(2000, seed=seed, slots=1)
        propensities_RP = rounds.logged.conditional_RP
        wrong_RPN = chances_RPN**0.6 / (chances_RPN**0.6).sum(axis=2, keepdims=True)
        wrong_RP = np.take_along_axis(wrong_RPN, items_RP[:, :, None].astype(int), axis=2)[:, :, 0]
        for label, logged_RP, all_RPN in (("", propensities_RP, chances_RPN), ("wrong ", wrong_RP, wrong_RPN)):
            items, bins = ItemCounts(), BinCounts()
            items.add(*flat(items_RP, logged_RP))
            bins.add(logged_RP, bin_masses(all_RPN), rounds.there_RP)
            p_values[f"{label}items"].append(items.test().p)
            p_values[f"{label}bins"].append(bins.test().p)
    for name in ("items", "bins"):
        assert 0.35 < np.mean(p_values[name]) < 0.65
        assert np.mean(np.array(p_values[name]) < 0.05) < 0.15
    assert np.median(p_values["wrong bins"]) < 1e-3
    assert np.mean(p_values["wrong items"]) > 0.1, "all items are alike: each one's mean rate is right"


def test_items_that_were_shown_more_often_than_logged_stop_a_verdict_in_any_context() -> None:
    """Item 0 logged at two thirds of its chance."""
    right, wrong = [], []
    for seed in range(40):
        rounds, items_RP, _ = world(2000, seed=seed, slots=1)
        for values, factor in ((right, 1.0), (wrong, 1.5)):
            counts = ItemCounts()
            logged_RP = rounds.logged.conditional_RP / np.where(items_RP == 0, factor, 1.0)
            counts.add(*flat(items_RP, logged_RP))
            values.append(counts.test().gate_p)
    assert np.mean(np.array(right) < 0.05) <= 0.1
    assert max(wrong) < 0.001


def test_items_meet_by_their_hashes_and_too_many_are_not_counted() -> None:
    """Two parts of items 7, 8 and 8, 9; together as one. Then 1001 items."""

    def counts(*items: int) -> ItemCounts:
        one = ItemCounts()
        one.add(*flat(np.array(items, dtype=np.uint64)[:, None], np.full((len(items), 1), 1 / 3)))
        return one

    whole, part = counts(*[7, 8] * 20, *[8, 9] * 10), counts(*[8, 9] * 10)
    part.merge(counts(*[7, 8] * 20))
    assert part.test() == whole.test()
    assert whole.test().statistic == pytest.approx((0 + 10**2 + 10**2) / 20), "20, 30, 10 of 60, each a third"
    many = counts(*range(600))
    many.merge(counts(*range(401, 1001)))
    assert many.test().cells == 0
    many.merge(whole)
    assert many.test().cells == 0


def open_bandit(path: Path) -> tuple[ItemCounts, list[Ints]]:
    """Return the counts of a file of Open Bandit, and how often each item was shown in each slot."""
    if not path.exists():
        pytest.skip(f"there is no {path}")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = [
            (int(row["item_id"]), int(row["position"]) - 1, float(row["propensity_score"]))
            for row in csv.DictReader(file)
        ]
    items, slots, propensities = (np.array(column) for column in zip(*rows, strict=True))
    counts = ItemCounts()
    counts.add(items.astype(np.uint64), slots, propensities)
    return counts, [np.bincount(items[slots == slot]) for slot in range(3)]


@pytest.mark.integration
def test_open_bandits_random_policy_shows_items_at_the_rates_that_it_logs(real_data: Path) -> None:
    counts, observed = open_bandit(real_data / "open_bandit_sample/random/men/men.csv.gz")
    found = counts.test()
    assert found.statistic == pytest.approx(sum(stats.chisquare(one).statistic for one in observed), rel=1e-4)
    assert found.df == pytest.approx(3 * 33, rel=1e-4), "propensities are logged as 0.0294118"
    assert found.p > 0.001


@pytest.mark.integration
def test_items_that_are_improbable_at_times_do_not_make_right_propensities_wrong(real_data: Path) -> None:
    """Thompson sampling's chances go down to 1e-5: such showings are too rare to be among 10,000."""
    found = open_bandit(real_data / "open_bandit_sample/bts/men/men.csv.gz")[0].test()
    assert found.p < 1e-6
    assert found.gate_p == 1.0


@pytest.mark.integration
def test_the_published_chi_square_of_the_campaign_all() -> None:
    obp = pytest.importorskip("obp", reason="obp is not installed")
    found = open_bandit(Path(obp.__file__).parent / "dataset/obd/random/all/all.csv")[0].test()
    assert (found.statistic, found.df) == (pytest.approx(240.083, abs=1e-3), pytest.approx(237))
    assert (found.p, found.cells) == (pytest.approx(0.432, abs=1e-3), 240)


# Which pages count.


@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ("logged", np.nan, "missing_propensity"),
        ("logged", 0.0, "zero_propensity"),
        ("logged", -0.1, "zero_propensity"),
        ("logged", 1.5, "propensity_above_1"),
        ("reward", 2.0, "reward_out_of_range"),
        ("reward", -1.0, "reward_out_of_range"),
        ("reward", np.nan, "reward_out_of_range"),
        ("policy", 1.5, "bad_chance_of_policy"),
        ("policy", np.nan, "bad_chance_of_policy"),
    ],
)
def test_a_page_that_is_no_evidence_is_left_out_under_its_reason(what: str, value: float, reason: str) -> None:
    values = {"logged": TOY_LOGGED.copy(), "reward": np.zeros((6, 1)), "policy": TOY_POLICY.copy()}
    values[what][2, 0] = value
    logged = chances(values["logged"])
    rounds = rounds_of(values["reward"], logged, target(chances(TOY_POLICY)), target(chances(values["policy"])))
    kept, bad = usable(rounds, ReplayConfig())
    assert bad == {reason: 1}
    assert kept.users_R.tolist() == [0, 1, 3, 4, 5]
    assert reason in BAD


def test_uniform_logs_of_any_number_of_candidates_are_calibrated() -> None:
    """All candidates share one bin, which holds all probability up to rounding: nothing is left to test."""
    for candidates in (65, *range(2, 1000)):
        chances_RPN = np.full((200, 1, candidates), 1 / candidates)
        bins = BinCounts()
        bins.add(chances_RPN[:, :, 0], np.repeat(bin_masses(chances_RPN[:1]), 200, axis=0), np.ones((200, 1), bool))
        found = bins.test()
        assert (found.cells, found.gate_p) == (0, 1.0), candidates


def test_slots_without_an_item_are_never_bad_and_a_page_counts_once() -> None:
    logged = chances([[0.5, np.nan], [np.nan, np.nan]])
    rounds = rounds_of([[0, 9.0], [5.0, 0]], logged, target(chances(np.ones((2, 2)))), target(chances(np.ones((2, 2)))))
    rounds = concatenated([rounds])
    rounds = dataclasses.replace(rounds, there_RP=np.array([[True, False], [True, False]]))
    kept, bad = usable(rounds, ReplayConfig())
    assert (len(kept), bad) == (1, {"missing_propensity": 1})


def test_what_is_usable_is_handed_on_as_it_is() -> None:
    rounds = toy()
    kept, bad = usable(rounds, ReplayConfig())
    assert kept is rounds
    assert bad == {}
