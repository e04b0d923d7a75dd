"""Live champion/challenger splits: who counts, what the arms earned, and when the split itself is broken."""

from __future__ import annotations

import dataclasses
import datetime
import pickle

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from features.schemas import PAGES
from pipelines.replay.config import ReplayConfig
from pipelines.replay.live import LivePages, LiveSums
from pipelines.replay.readout import LiveReadout, read_out
from pipelines.replay.verdict import Compared

COMPARED = Compared(challenger="r2", champion="r1", inputs="x", time=datetime.datetime.now(datetime.UTC))
OTHER, NO, CHAMPION, CHALLENGER = -2, -1, 0, 1


def pages_of(rows: list[tuple[int, int, bool, float]], items: int = 1) -> LivePages:
    """Return pages of (user, arm, before the split, reward)."""
    users, arms, before, rewards = zip(*rows, strict=True)
    return LivePages(
        users_R=np.array(users, dtype=np.uint64),
        arms_R=np.array(arms),
        before_R=np.array(before),
        rewards_R=np.array(rewards, dtype=float),
        items_R=np.full(len(rows), items),
    )


def split(users: int, seed: int, effect: float = 0.0, share: float = 0.5, before: bool = False) -> LivePages:
    """Return pages of users of different zeal, one to four in the split and, if asked for, ten each before it."""
    rng = np.random.default_rng(seed)
    zeal_U = rng.beta(1, 4, users)
    arm_U = (rng.random(users) < share).astype(np.int64)
    user_R = np.repeat(np.arange(users), rng.integers(1, 5, users))
    rewards_R = rng.random(len(user_R)) < zeal_U[user_R] + effect * arm_U[user_R]
    past_R = np.repeat(np.arange(users), 10 if before else 0)
    past_rewards_R = rng.random(len(past_R)) < zeal_U[past_R]
    every_R = np.concatenate([user_R, past_R])
    before_R = np.arange(len(every_R)) >= len(user_R)
    return LivePages(
        users_R=every_R.astype(np.uint64),
        arms_R=np.where(before_R, NO, arm_U[every_R]),
        before_R=before_R,
        rewards_R=np.concatenate([rewards_R, past_rewards_R]).astype(float),
        items_R=np.ones(len(every_R), dtype=np.int64),
    )


def read(pages: LivePages, share: float = 0.5, **options: object) -> LiveReadout:
    config = ReplayConfig(**({"resamples": 100} | options))  # type: ignore[arg-type]
    return read_out(LiveSums(config).add(pages), config, challenger_share=share, compared=COMPARED)


def failed(readout: LiveReadout) -> list[str]:
    return [check.name for check in readout.verdict.checks if not check.passed]


SMALL = pages_of(
    [
        (1, CHAMPION, False, 1.0),
        (1, CHAMPION, False, 0.0),
        (2, CHAMPION, False, 0.0),
        (3, CHALLENGER, False, 1.0),
        (4, CHALLENGER, False, 1.0),
        (4, CHALLENGER, False, 0.0),
    ]
)


def test_means_per_page_and_per_user() -> None:
    by_page, by_user = read(SMALL).estimates[0], read(SMALL, unit="user").estimates[0]
    assert (by_page.value_a, by_page.value_b) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (by_user.value_a, by_user.value_b) == (pytest.approx(1 / 2), pytest.approx(2 / 2))
    assert (read(SMALL).users, read(SMALL).pages) == ((2, 2), (3, 3))


def test_means_per_item() -> None:
    wide = dataclasses.replace(SMALL, items_R=np.array([1, 3, 1, 2, 2, 1]))
    found = read(wide, unit="item").estimates[0]
    assert (found.value_a, found.value_b) == (pytest.approx(1 / 5), pytest.approx(2 / 5))


def test_one_page_each_is_the_t_test_of_two_samples() -> None:
    rng = np.random.default_rng(0)
    rewards, arms = (rng.random(4000) < 0.3).astype(float), rng.integers(2, size=4000)
    pages = pages_of([(user, arms[user], False, rewards[user]) for user in range(4000)])
    found = read(pages, buckets=100_000).estimates[0]
    samples = [rewards[arms == arm] for arm in (1, 0)]
    assert found.difference == pytest.approx(samples[0].mean() - samples[1].mean())
    assert found.se == pytest.approx(np.sqrt(sum(one.var(ddof=1) / len(one) for one in samples)), rel=1e-3)
    interval = stats.ttest_ind(*samples, equal_var=False).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low, rel=0.03), pytest.approx(interval.high, rel=0.03))


def test_pages_of_one_user_are_one_observation() -> None:
    """Each user's page ten times over says no more."""
    one = split(1000, seed=1)
    ten = LivePages(**{field.name: np.tile(getattr(one, field.name), 10) for field in dataclasses.fields(one)})
    assert read(ten).estimates[0].se == pytest.approx(read(one).estimates[0].se)


def with_more(pages: LivePages) -> LivePages:
    """Return `SMALL` with further pages."""
    names = [field.name for field in dataclasses.fields(pages)]
    return LivePages(**{name: np.concatenate([getattr(SMALL, name), getattr(pages, name)]) for name in names})


def test_users_of_both_arms_are_counted_and_do_not_count() -> None:
    both = pages_of([(9, CHAMPION, False, 1.0), (9, CHALLENGER, False, 1.0), (9, NO, True, 1.0)])
    found = read(with_more(both))
    assert found.estimates == read(SMALL).estimates
    assert (found.crossed, found.left_out) == (1, {"both_arms": 2})
    assert "1 users had pages of both arms; they do not count" in found.lines()
    check = next(check for check in found.verdict.checks if check.name == "both_arms")
    assert (check.passed, check.value) == (False, pytest.approx(1 / 5))


def test_what_does_not_count() -> None:
    """A page without an arm, of a user never in the split, of another release, and with a reward that cannot be."""
    others = pages_of([(7, NO, False, 1.0), (8, NO, True, 1.0), (1, CHAMPION, False, 2.0), (1, OTHER, False, 1.0)])
    found = read(with_more(others))
    assert found.estimates == read(SMALL).estimates
    assert found.left_out == {"no_arm": 1, "other_release": 1, "reward_out_of_range": 1}
    assert "reward_out_of_range" in failed(found)


def test_a_page_may_earn_as_often_as_it_has_items() -> None:
    pages = pages_of([(1, CHAMPION, False, 2.0), (2, CHALLENGER, False, 3.0)], items=2)
    assert LiveSums(ReplayConfig()).add(pages).left_out["reward_out_of_range"] == 1


def test_cuped_takes_off_what_the_time_before_explains() -> None:
    """With theta = cov / var of the users' differences; the same truth, less variance."""
    found = read(split(4000, seed=2, effect=0.05, before=True))
    means, cuped = found.estimates
    assert found.verdict.estimator == "cuped"
    assert found.variance_ratio == pytest.approx(cuped.se**2 / means.se**2)
    assert found.variance_ratio < 0.8
    assert abs(cuped.difference - 0.05) < 3 * cuped.se


def test_arms_that_differ_before_the_split_give_no_verdict() -> None:
    """The challenger's users earned a tenth more before anybody treated them: they were not drawn at random."""
    pages = split(20_000, seed=6, before=True)
    arm_U = np.zeros(20_000, dtype=np.int64)
    arm_U[pages.users_R[pages.arms_R == CHALLENGER].astype(np.int64)] = 1
    more_R = pages.before_R & (arm_U[pages.users_R.astype(np.int64)] == 1)
    rewards_R = np.where(more_R & (np.arange(len(more_R)) % 50 == 0), 1.0, pages.rewards_R)
    assert failed(read(dataclasses.replace(pages, rewards_R=rewards_R))) == ["alike_before"]
    assert failed(read(pages)) == []


def test_without_a_time_before_the_means_decide() -> None:
    found = read(split(2000, seed=3))
    assert ([one.name for one in found.estimates], found.verdict.estimator, found.variance_ratio) == (
        ["means"],
        "means",
        1,
    )


@pytest.mark.integration
def test_cuped_is_unbiased_and_its_interval_covers_as_it_says() -> None:
    hits, differences = 0, []
    for seed in range(150):
        found = read(split(600, seed=1000 + seed, effect=0.05, before=True)).estimates[-1]
        hits += found.low <= 0.05 <= found.high
        differences.append(found.difference)
    assert hits >= 150 * 0.95 - 3 * np.sqrt(150 * 0.95 * 0.05)
    assert abs(np.mean(differences) - 0.05) < 3 * np.std(differences) / np.sqrt(150)


def test_a_split_that_is_not_as_configured_forbids_a_verdict() -> None:
    """5,000 to 4,500 at equal shares: chi-square (500^2 / 4750) / 2 = 26.3, p = 3e-7."""
    pages = pages_of([(user, int(user >= 5000), False, float(user % 7 == 0 or user >= 9000)) for user in range(9500)])
    found = read(pages)
    assert found.sample_ratio_p == pytest.approx(stats.chi2.sf(2 * 250**2 / 4750, 1))
    assert (found.verdict.verdict, failed(found)) == ("not_enough_evidence", ["sample_ratio"])
    assert "5,000 and 4,500 users, p = 2.9e-07 of so uneven a split if all is right" in found.verdict.because[1]
    assert failed(read(pages, share=4500 / 9500)) == []


def test_a_better_challenger_ships_and_a_worse_one_does_not() -> None:
    better, worse = (read(split(20_000, seed=4, effect=effect)) for effect in (0.1, -0.1))
    assert (better.verdict.verdict, better.verdict.promote, failed(better)) == ("ship", True, [])
    assert worse.verdict.verdict == "do_not_ship"
    assert better.verdict.low == better.estimates[0].always_valid_low, "it may be looked at every day"
    assert better.verdict.false_ship == pytest.approx(0.05)


@pytest.mark.integration
def test_no_effect_is_shipped_no_more_often_than_stated_at_any_of_five_looks() -> None:
    """Forty splits without an effect, each read out five times as it grows; at most 5 % of them may ship."""
    shipped = 0
    for seed in range(40):
        pages = split(2000, seed=seed)
        looks = [read(pages.take(pages.users_R < users)).verdict.verdict for users in range(400, 2001, 400)]
        shipped += "ship" in looks
    assert shipped <= 40 * 0.05


def test_few_users_and_a_user_with_most_pages_forbid_a_verdict() -> None:
    found = read(SMALL)
    assert set(failed(found)) == {
        "users_champion",
        "users_challenger",
        "weight_share_champion",
        "weight_share_challenger",
        "rewarded_users",
    }
    assert "users_champion: 2, needed 200" in found.verdict.missing


def test_parts_merge_and_travel_small() -> None:
    pages, config = split(1000, seed=5, before=True), ReplayConfig(buckets=100, resamples=100)
    parts = [LiveSums(config).add(pages.take(pages.users_R % np.uint64(3) == part)) for part in range(3)]
    first, *others = (pickle.loads(pickle.dumps(part)) for part in parts)
    for other in others:
        first.merge(other)
    whole = LiveSums(config).add(pages)
    np.testing.assert_allclose(first.sums_GA5, whole.sums_GA5)
    np.testing.assert_allclose(first.rewards_ASM, whole.rewards_ASM)
    assert first.rewarded_A.tolist() == whole.rewarded_A.tolist()
    assert first.left_out == whole.left_out
    assert len(pickle.dumps(LiveSums(ReplayConfig()))) < 200_000


def test_rows_of_the_table_pages() -> None:
    def row(user: str, day: int, arm: str | None, items: int) -> dict[str, object]:
        time = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)
        return {
            "request_id": f"{user}{day}",
            "user_id": user,
            "timestamp": time,
            "arm": arm,
            "release": {"champion": "r1", "challenger": "r2"}.get(str(arm)),
            "items": ["i"] * items,
            "events": ["impression"] * items,
            "event_times": [time] * items,
        }

    rows = [row("a", 1, "champion", 2), row("a", 3, "challenger", 1), row("b", 3, "other", 1), row("b", 4, None, 0)]
    rows.append(row("c", 5, "champion", 1) | {"release": "r0"})
    starts = int(datetime.datetime(2026, 1, 3, tzinfo=datetime.UTC).timestamp() * 1000)
    found = LivePages.of(pa.Table.from_pylist(rows, schema=PAGES), np.array([1.0, 0, 0, 0, 0]), starts, ("r1", "r2"))
    assert found.arms_R.tolist() == [CHAMPION, CHALLENGER, NO, NO, OTHER]
    assert found.before_R.tolist() == [True, False, False, False, False]
    assert found.items_R.tolist() == [2, 1, 1, 0, 1]
    assert found.users_R[0] == found.users_R[1] != found.users_R[2]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_splits_nobody_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"challenger_share: expected more than 0 and less than 1, got {share}; name"):
        read(SMALL, share=share)


def test_pages_of_one_arm_are_no_split() -> None:
    with pytest.raises(
        ValueError, match=r"expected pages of both arms, got 3 of champion and 0 of challenger; is `serve"
    ):
        read(SMALL.take(SMALL.arms_R == CHAMPION))
    with pytest.raises(ValueError, match="expected pages of both arms, got none"):
        read(SMALL.take(np.zeros(6, dtype=bool)))


@pytest.mark.parametrize(("reward", "sign"), [("click", 1.0), ("dislike", -1.0)])
def test_rewards_that_only_did_not_come_in_a_small_arm_forbid_a_verdict(reward: str, sign: float) -> None:
    """None of 1,000 users has a reward: by 120 of 9,000, thirteen were to be expected; by 12, hardly more than one."""

    def found(rewarded: int) -> LiveReadout:
        rows = [(user, int(user >= 9000), False, sign * (user < rewarded)) for user in range(10_000)]
        return read(pages_of(rows), share=0.1, reward={reward: sign}, min_rewarded_users=min(rewarded, 100))

    few, many = found(12), found(120)
    assert (few.verdict.verdict, failed(few)) == ("not_enough_evidence", ["unseen_rewards"])
    assert (many.verdict.verdict, failed(many)) == ("do_not_ship" if sign > 0 else "ship", [])
    check = many.verdict.checks[-1]
    end = many.estimates[0].always_valid_high + 3 / 1000 if sign > 0 else many.estimates[0].always_valid_low - 3 / 1000
    assert check.value == pytest.approx(end)


def test_users_with_a_reward_are_counted_by_arm() -> None:
    check = next(check for check in read(SMALL).verdict.checks if check.name == "rewarded_users")
    assert (check.passed, check.value) == (False, 3)
    assert check.says == "1 users of champion and 2 of challenger have a reward; at least 100"
