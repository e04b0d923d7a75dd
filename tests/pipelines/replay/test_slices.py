"""Differences by slice, against arithmetic; control of false discoveries."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from replay_worlds import chances, random_rounds, rounds_of, target
from scipy import stats

from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import estimates
from pipelines.replay.rounds import Bools, Floats, Rounds
from pipelines.replay.slices import SliceReport, SliceResult, SliceSums, benjamini_hochberg, reversed_groups
from pipelines.replay.tally import Tally


def two_slots(slices: dict[str, Bools] | None = None) -> Rounds:
    """Three pages of two slots, the last with one item. Weights of B are 2, 1 / 2, 1, 1, 3; of A all 1."""
    logged = chances([[0.2, 0.4], [0.5, 0.5], [0.1, 1.0]])
    policy = chances([[0.4, 0.2], [0.5, 0.5], [0.3, 1.0]])
    rounds = rounds_of(
        [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]],
        logged,
        target(logged),
        target(policy),
        there_RP=np.array([[True, True], [True, True], [True, False]]),
    )
    return dataclasses.replace(rounds, slices=slices or {})


def report_of(rounds: Rounds, **options: object) -> SliceReport:
    config = ReplayConfig(**options)  # type: ignore[arg-type]
    return SliceSums(config, rounds.there_RP.shape[1]).add(rounds).report()


def named(report: SliceReport) -> dict[str, SliceResult]:
    return {one.name: one for one in report.slices}


def test_positions_per_page_that_has_the_slot() -> None:
    report = report_of(two_slots())
    found = named(report)
    assert found["position=1"].difference == pytest.approx(((2 - 1) + 0 + (3 - 1)) / 3)
    assert found["position=2"].difference == pytest.approx(((1 / 2 - 1) + 0) / 2)
    assert [one.shown for one in report.slices] == [3, 2]
    assert report.total == pytest.approx((1 - 1 / 2 + 2) / 3)


def test_by_prefix_weights_slices_are_parts_of_cascade_dr() -> None:
    """Every slot is in one position, so that the positions' sums are the estimate, for pages of two slots each."""
    rounds, config = random_rounds(3, pages=400, slots=2, ragged=False), ReplayConfig(resamples=100)
    found = SliceSums(config, 2, "prefix").add(rounds).report()
    (expected,) = (one for one in estimates(Tally.empty(config, 2).add(rounds), config) if one.name == "cascade_dr")
    assert found.total == pytest.approx(expected.difference)
    assert sum(one.difference for one in found.slices) == pytest.approx(expected.difference)
    by_position = SliceSums(config, 2).add(rounds).report()
    assert by_position.total != pytest.approx(expected.difference)


def test_intervals_are_students_over_users() -> None:
    found = named(report_of(two_slots()))["position=1"]
    values = np.array([1.0, 0.0, 2.0])
    exact = stats.ttest_1samp(values, 0.0)
    interval = exact.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.p == pytest.approx(exact.pvalue)


def test_pages_of_one_user_are_one_observation() -> None:
    rounds = dataclasses.replace(two_slots(), users_R=np.zeros(3, dtype=np.uint64))
    found = named(report_of(rounds))["position=1"]
    assert (found.low, found.high, found.p, found.real) == (-np.inf, np.inf, 1.0, False), "one user tells nothing"


def test_users_are_judged_by_their_pages_items_by_all_pages() -> None:
    first_page = np.array([[True, True], [False, False], [False, False]])
    head = np.array([[True, False], [True, False], [False, False]])
    found = named(report_of(two_slots({"user=new": first_page, "item=head": head, "item=tail": ~head})))
    assert found["user=new"].difference == pytest.approx((1 - 1 / 2) / 1)
    assert found["item=head"].difference == pytest.approx((1 + 0) / 3)
    assert found["item=tail"].difference == pytest.approx((-1 / 2 + 2) / 3)
    assert (found["item=head"].shown, found["item=tail"].shown) == (2, 3)


def test_per_item_shown_where_that_is_the_unit() -> None:
    head = np.array([[True, False], [True, False], [False, False]])
    found = named(report_of(two_slots({"item=head": head}), unit="item"))
    assert found["position=1"].difference == pytest.approx(3 / 3)
    assert found["item=head"].difference == pytest.approx(1 / 5)


def test_the_reward_model_explains_part_of_pages_but_not_of_items() -> None:
    """(w_B - w_A)(r - q) + q_B - q_A on pages; rewards alone for items."""
    rounds = two_slots({"item=head": np.ones((3, 2), dtype=bool)})
    rounds = dataclasses.replace(
        rounds,
        predicted_RP=np.full((3, 2), 0.5),
        challenger=dataclasses.replace(rounds.challenger, expected_RP=np.full((3, 2), 0.7)),
        champion=dataclasses.replace(rounds.champion, expected_RP=np.full((3, 2), 0.6)),
    )
    found = named(report_of(rounds))
    assert found["position=1"].difference == pytest.approx(((1 + 0 + 2) * 0.5 + 3 * 0.1) / 3)
    assert found["item=head"].difference == pytest.approx((1 - 1 / 2 + 2) / 3)


def test_slices_of_merged_parts_meet_by_name() -> None:
    config = ReplayConfig()
    one = two_slots({"user=new": np.ones((3, 2), dtype=bool), "device=phone": np.ones((3, 2), dtype=bool)})
    other = two_slots({"device=phone": np.ones((3, 2), dtype=bool)})
    other = dataclasses.replace(other, users_R=other.users_R + np.uint64(3))
    merged = SliceSums(config, 2).add(other).merge(SliceSums(config, 2).add(one)).report()
    assert {one.name: one.shown for one in merged.slices} == {
        "position=1": 6,
        "position=2": 4,
        "device=phone": 10,
        "user=new": 5,
    }


def test_adjusted_p_values() -> None:
    """p_(k) m / k, the smallest from k on: 0.005 * 4, min(0.009 * 2, 0.05 * 4 / 3), ..."""
    adjusted = benjamini_hochberg([0.009, 0.005, 0.5, 0.05])
    assert adjusted == pytest.approx([0.018, 0.018, 0.5, 0.05 * 4 / 3])
    assert benjamini_hochberg([]) == []


def random_slices(rng: np.random.Generator, effects: Floats, pages: int = 300) -> Rounds:
    """One-slot pages, each of one group; in group g the mean difference is `effects[g]`."""
    group_R = rng.integers(len(effects), size=pages)
    rewards_RP = rng.normal(effects[group_R], 1.0)[:, None]
    logged = chances(np.full((pages, 1), 0.25))
    rounds = rounds_of(rewards_RP, logged, target(logged), target(chances(np.full((pages, 1), 0.5))))
    return dataclasses.replace(
        rounds, slices={f"device={group}": (group_R == group)[:, None] for group in range(len(effects))}
    )


def test_few_of_the_differences_called_real_are_false() -> None:
    """Five of ten devices have a difference; of what is called real at 0.2, at most a fifth is false on average."""
    rng, shares, found = np.random.default_rng(0), [], 0
    effects = np.array([0.0] * 5 + [1.0] * 5)
    for _ in range(100):
        report = report_of(random_slices(rng, effects), slice_discovery_rate=0.2)
        real = [int(one.name.split("=")[1]) for one in report.slices if one.real and one.group == "device"]
        shares.append(sum(device < 5 for device in real) / max(len(real), 1))
        found += sum(device >= 5 for device in real)
    assert np.mean(shares) < 0.2
    assert found > 490, "nearly all of 500 true ones"


def slice_of(name: str, difference: float, real: bool = True) -> SliceResult:
    return SliceResult(name=name, shown=1, difference=difference, low=0, high=0, p=1, adjusted_p=1, real=real)


def test_a_group_whose_slices_all_oppose_the_total_is_a_reversal() -> None:
    users = [slice_of("user=new", -1.0, real=False), slice_of("user=known", -0.5)]
    found = [*users, slice_of("device=a", -1.0), slice_of("device=b", 2)]
    assert reversed_groups(found, total=0.3) == ("user",)
    assert reversed_groups(found, total=-0.3) == ()
    assert reversed_groups(users[1:], total=0.3) == (), "a group of one is all pages, or not known"
    assert reversed_groups([dataclasses.replace(one, real=False) for one in users], total=0.3) == (), "chance"


def test_no_difference_opposes_nothing() -> None:
    assert reversed_groups([slice_of("user=new", 0.0), slice_of("user=known", 0.0)], total=0.5) == ()
    assert reversed_groups([slice_of("user=new", 1.0), slice_of("user=known", 1.0)], total=0.0) == ()


def test_too_many_slices_are_refused() -> None:
    one = np.ones((3, 2), dtype=bool)
    with pytest.raises(ValueError, match="expected at most 200, got 'query=198' besides; give keys of few values"):
        report_of(two_slots({f"query={number}": one for number in range(300)}))
