"""Open Bandit small sample: Thompson sampling's log, judged for a policy that chooses uniformly among the items.

Expected values were computed from the published rows with Open Bandit Pipeline 0.5.7.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from obp_twins import of_one_item
from replay_worlds import chances, rounds_of, target

from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import estimates_of
from pipelines.replay.estimators import Ips, SelfNormalisedIps
from pipelines.replay.estimators.terms import terms_of
from pipelines.replay.intervals import standard_error, student_quantile
from pipelines.replay.rounds import Rounds
from pipelines.replay.tally import Tally, terms_needed
from pipelines.replay.values import CHALLENGER, CHAMPION, Sums, influence, value

ESTIMATORS = of_one_item(clip=10.0, limit=1000.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    items: int
    on_policy: float
    values: tuple[float, ...]
    """In the order of the estimators."""
    mean_weight: float
    largest_weight: float
    effective_sample: float
    error: float
    """Standard error of IPS."""
    lower: float
    """One-sided 95 % bound of IPS by Student's t."""
    ips: tuple[float, float]
    """Difference to the log and its standard error."""
    snips: tuple[float, float]


MEN = Published(
    items=34,
    on_policy=0.0069,
    values=(
        0.0030086263, 0.0030086263, 0.0031894232, 0.0045742741, 0.0027021904,
        0.0036317776, 0.0025896917, 0.0041963779, 0.0043093878, 0.0030056484,
    ),
    mean_weight=0.943314,
    largest_weight=178.2531,
    effective_sample=655.7098,
    error=0.00077394,
    lower=0.00173550,
    ips=(-0.00389137, 0.00082864),
    snips=(-0.00371058, 0.00085718),
)  # fmt: skip
ALL = Published(
    items=80,
    on_policy=0.0042,
    values=(
        0.0023596395, 0.0023596395, 0.0023337139, 0.0046612687, 0.0033293627,
        0.0040417048, 0.0033439965, 0.0045614213, 0.0045345400, 0.0023544440,
    ),
    mean_weight=1.011109,
    largest_weight=277.7778,
    effective_sample=340.3783,
    error=0.00087102,
    lower=0.00092680,
    ips=(-0.00184036, 0.00084081),
    snips=(-0.00186629, 0.00084128),
)  # fmt: skip
WOMEN = Published(
    items=46,
    on_policy=0.0046,
    values=(
        0.0074375775, 0.0043836692, 0.0023730461, 0.0041915407, 0.0026084190,
        0.0056364022, 0.0036864272, 0.0041442704, 0.0041977844, 0.0072808653,
    ),
    mean_weight=3.134190,
    largest_weight=21739.1304,
    effective_sample=2.0778,
    error=0.00411836,
    lower=0.00066285,
    ips=(0.00283758, 0.00399224),
    snips=(-0.00222695, 0.00210092),
)  # fmt: skip


def test_the_mens_campaign_has_the_published_values(real_data: Path) -> None:
    file = real_data / "open_bandit_sample" / "bts" / "men" / "men.csv.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    check(file, MEN)


@pytest.mark.parametrize(("campaign", "published"), [("men", MEN), ("all", ALL), ("women", WOMEN)])
def test_the_campaigns_in_the_obp_package_have_the_published_values(campaign: str, published: Published) -> None:
    package = importlib.util.find_spec("obp")
    if package is None or package.origin is None:
        pytest.skip("obp is not installed")
    check(Path(package.origin).parent / "dataset" / "obd" / "bts" / campaign / f"{campaign}.csv", published)


def check(file: Path, published: Published) -> None:
    rounds = judged(file, published.items)
    tally = Tally.of(ESTIMATORS, buckets=2048, slots=1).add(rounds)
    found = estimates_of(ESTIMATORS, tally, ReplayConfig(resamples=100))
    for estimate, expected in zip(found, published.values, strict=True):
        assert estimate.value_b == pytest.approx(expected, abs=1e-8), estimate.name
    assert found[0].value_a == pytest.approx(published.on_policy, abs=1e-12)
    assert found[0].mean_weight_a == 1.0
    assert found[0].mean_weight_b == pytest.approx(published.mean_weight, abs=1e-6)
    assert found[0].effective_users_b == pytest.approx(published.effective_sample, rel=0.1), "users share buckets"
    weight_R = rounds.challenger.chances.conditional_RP[:, 0] / rounds.logged.conditional_RP[:, 0]
    assert weight_R.max() == pytest.approx(published.largest_weight, abs=1e-4)
    check_errors(rounds, published)


def check_errors(rounds: Rounds, published: Published) -> None:
    """Check standard errors with each row as a cluster of its own, as published."""
    sums = by_row(rounds)
    ips, snips = Ips().formula(1), SelfNormalisedIps().formula(1)
    (error,) = standard_error(influence(ips, sums, CHALLENGER)[None])
    assert error == pytest.approx(published.error, abs=1e-8)
    assert value(ips, sums, CHALLENGER) - student_quantile(10_000, 0.90) * error == pytest.approx(
        published.lower, abs=1e-8
    )
    for formula, (difference, difference_error) in ((ips, published.ips), (snips, published.snips)):
        effect_G = influence(formula, sums, CHALLENGER) - influence(formula, sums, CHAMPION)
        assert value(formula, sums, CHALLENGER) - value(formula, sums, CHAMPION) == pytest.approx(difference, abs=1e-8)
        assert standard_error(effect_G[None])[0] == pytest.approx(difference_error, abs=1e-8)


def by_row(rounds: Rounds) -> Sums:
    terms = terms_needed(ESTIMATORS, 1)
    ones = np.ones(len(rounds))
    return Sums(
        columns={term: column for column, term in enumerate(terms)},
        terms_VCG=np.stack([terms_of(rounds, policy, terms) for policy in (rounds.champion, rounds.challenger)]),
        pages_G=ones,
        items_GP=ones[:, None],
        units_G=ones,
    )


def judged(file: Path, items: int) -> Rounds:
    """Return the log's rows as pages of one item: champion is the log itself, challenger chooses uniformly.

    The reward model is a smoothed table by position and item of the same rows.
    """
    table: pa.Table = pa.csv.read_csv(file)
    click, item, position, propensity = (
        table[name].to_numpy() for name in ("click", "item_id", "position", "propensity_score")
    )
    shown_PI, clicked_PI = np.zeros((3, items)), np.zeros((3, items))
    np.add.at(shown_PI, (position - 1, item), 1)
    np.add.at(clicked_PI, (position - 1, item), click)
    rate_PI = (clicked_PI + 0.05) / (shown_PI + 10)
    logged = chances(propensity[:, None])
    uniform = target(chances(np.full((len(click), 1), 1 / items)), rate_PI.mean(axis=1)[position - 1][:, None])
    return rounds_of(click[:, None], logged, target(logged), uniform, rate_PI[position - 1, item][:, None])
