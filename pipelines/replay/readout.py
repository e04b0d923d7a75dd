"""What a live champion/challenger split says: the same verdict as a replay, from who was served by whom.

Legend: `G` buckets of users with pages, `A` the two arms: champion, challenger; `E` estimates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from scipy import stats

from pipelines.replay.checks import SIGNIFICANCE, Check, at_least, at_most, input_checks, stays_apart
from pipelines.replay.config import ITEM, USER, ReplayConfig
from pipelines.replay.estimates import Estimate, intervals_of
from pipelines.replay.intervals import resample_counts, standard_error
from pipelines.replay.live import LiveSums
from pipelines.replay.planning import Cuped, sample_ratio_p_value
from pipelines.replay.rounds import Floats
from pipelines.replay.unseen_rewards import live_shifts
from pipelines.replay.usable import REWARD_OUT_OF_RANGE
from pipelines.replay.verdict import Compared, Verdict, decide

MEANS, CUPED = "means", "cuped"
MOST_CROSSED = 0.01
"""Users with pages of both arms do not count. They are the busiest ones, so leaving out many changes who is compared;
a hundredth changes a mean by about as much as the smallest lifts that tests are run for."""
ASSUMPTION = "users were split at random, and nobody's page depends on another's arm"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveReadout:
    """A live split, read out."""

    verdict: Verdict
    estimates: tuple[Estimate, ...]
    """`means`; and `cuped` where any user has a reward before the split, which decides then."""
    users: tuple[int, int]
    """Of champion and challenger."""
    pages: tuple[int, int]
    crossed: int
    """Users with pages of both arms, who do not count."""
    left_out: dict[str, int]
    """Pages that do not count, by reason."""
    sample_ratio_p: float
    """Chance of so uneven a split, or a more uneven one, if it is done as configured."""
    variance_ratio: float
    """Variance of the difference with CUPED over that without; 1 where there is no time before."""

    def lines(self) -> list[str]:
        """Return it as lines for a terminal."""
        lines = self.verdict.lines()
        for name, users, pages in zip(("champion", "challenger"), self.users, self.pages, strict=True):
            lines.append(f"{name}: {users:,} users, {pages:,} pages")
        lines += [f"left out: {count:,} pages ({reason})" for reason, count in sorted(self.left_out.items())]
        if self.crossed:
            lines.append(f"{self.crossed:,} users had pages of both arms; they do not count")
        lines.append(f"CUPED leaves {self.variance_ratio:.0%} of the variance")
        return lines + [check.line() for check in self.verdict.checks]


def read_out(sums: LiveSums, config: ReplayConfig, *, challenger_share: float, compared: Compared) -> LiveReadout:
    """Return what the split says; it may be read at any time and as often as one likes.

    Args:
        sums: Of all pages.
        config: Unit, confidence, margin and gates.
        challenger_share: The challenger's share of users, as it was configured; above 0 and below 1.
        compared: What the verdict is about.

    Raises:
        ValueError: The share is none of a split, or an arm has no pages.
    """
    check_share(challenger_share)
    sums_GA5 = sums.sums_GA5[sums.sums_GA5.any(axis=(1, 2))]
    pages, users = (sums_GA5[:, :, column].sum(axis=0) for column in (1, 3))
    if not pages.all():
        counts = f"{pages[0]:,.0f} of champion and {pages[1]:,.0f} of challenger" if len(sums_GA5) else "none"
        raise ValueError(f"expected pages of both arms, got {counts}; is `serve.challenger_share` above 0?")
    p = sample_ratio_p_value(users.tolist(), [1 - challenger_share, challenger_share])
    found = live_estimates(sums_GA5, config)
    gates = [*_checks(sums, sums_GA5, config, p), *_rewards(sums, sums_GA5, found[-1], config)]
    return LiveReadout(
        verdict=decide(
            found,
            gates,
            config,
            compared=compared,
            users=int(users.sum()),
            deciding=found[-1].name,
            always_valid=True,
        ),
        estimates=tuple(found),
        users=(int(users[0]), int(users[1])),
        pages=(int(pages[0]), int(pages[1])),
        crossed=sums.crossed,
        left_out={reason: count for reason, count in sums.left_out.items() if count},
        sample_ratio_p=p,
        variance_ratio=found[-1].se ** 2 / found[0].se ** 2 if found[0].se else 1.0,
    )


def check_share(challenger_share: float) -> None:
    """Raise a `ValueError` where a share is none of a split."""
    if not 0 < challenger_share < 1:
        raise ValueError(
            f"serve.challenger_share: expected more than 0 and less than 1, got {challenger_share}; name the share "
            "that the service was started with, as serve.challenger_share=0.1"
        )


def live_estimates(sums_GA5: Floats, config: ReplayConfig) -> list[Estimate]:
    """Return the difference of the arms' means and, where there is a time before, the same by CUPED.

    An arm's mean is the ratio `sum r / sum n`, linearised. CUPED (Deng et al. 2013) takes off what the same users'
    rewards before the split explain: `difference - theta (mean before of B - mean before of A)`, with the `theta` that
    leaves the least variance, `cov / var` over buckets of users.

    Args:
        sums_GA5: See `LiveSums`, of buckets with pages.
        config: Unit, confidence, resamples.
    """
    rewards, units, users, before = (sums_GA5[:, :, column] for column in (0, _unit(config), 3, 4))
    values_A, effects_GA = _ratio(rewards, units)
    means_A, effects_before_GA = _ratio(before, users)
    effect_G, effect_before_G = (effects[:, 1] - effects[:, 0] for effects in (effects_GA, effects_before_GA))
    found = [_estimate(MEANS, values_A, effect_G, int(users.sum()), config)]
    if effect_before_G.any():
        cuped = Cuped.of(effect_G, effect_before_G)
        adjusted_A = values_A - cuped.theta * (means_A - before.sum() / users.sum())
        found.append(_estimate(CUPED, adjusted_A, cuped.adjusted(effect_G, effect_before_G), int(users.sum()), config))
    return found


def _unit(config: ReplayConfig) -> int:
    """Return the column of the sums that means are over."""
    return {ITEM: 2, USER: 3}.get(config.unit, 1)


def _ratio(above_GA: Floats, below_GA: Floats) -> tuple[Floats, Floats]:
    """Return each arm's ratio of sums, and each bucket's first-order effect on it."""
    total_A = below_GA.sum(axis=0)
    ratio_A = above_GA.sum(axis=0) / total_A
    return ratio_A, (above_GA - ratio_A * below_GA) / total_A


def _estimate(name: str, values_A: Floats, effect_G: Floats, users: int, config: ReplayConfig) -> Estimate:
    difference = float(values_A[1] - values_A[0])
    counts_SG = resample_counts(len(effect_G), config.resamples, seed=0)
    return Estimate(
        name=name,
        value_a=float(values_A[0]),
        value_b=float(values_A[1]),
        difference=difference,
        se=float(standard_error(effect_G[None])[0]),
        **intervals_of(difference, effect_G, counts_SG, users, config.confidence),
        promise="consistent",
        assumption=ASSUMPTION,
        bias_bound=None,
        parameter=None,
        path=(),
        mean_weight_a=None,
        mean_weight_b=None,
        effective_users_a=None,
        effective_users_b=None,
    )


def _checks(sums: LiveSums, sums_GA5: Floats, config: ReplayConfig, p: float) -> Iterator[Check]:
    yield from input_checks({REWARD_OUT_OF_RANGE: sums.left_out[REWARD_OUT_OF_RANGE]}, (REWARD_OUT_OF_RANGE,))
    pages_GA, users_A = sums_GA5[:, :, 1], sums_GA5[:, :, 3].sum(axis=0)
    yield from _alike_before(sums_GA5)
    says = f"{users_A[0]:,.0f} and {users_A[1]:,.0f} users, p = {p:.3g} of so uneven a split if all is right"
    yield at_least("sample_ratio", p, SIGNIFICANCE, says)
    share = sums.crossed / (sums.crossed + users_A.sum())
    says = f"{sums.crossed:,} users had pages of both arms and do not count ({share:.2%})"
    yield at_most("both_arms", share, MOST_CROSSED, says)
    for arm, name in enumerate(("champion", "challenger")):
        yield at_least(f"users_{name}", users_A[arm], config.min_users, f"{users_A[arm]:,.0f} users of {name}")
        heaviest = float(pages_GA[:, arm].max() / pages_GA[:, arm].sum())
        says = f"{heaviest:.2%} of the pages of {name} are one user's"
        yield at_most(f"weight_share_{name}", heaviest, config.max_weight_share, says)


def _rewards(sums: LiveSums, sums_GA5: Floats, deciding: Estimate, config: ReplayConfig) -> Iterator[Check]:
    """Yield the gates that rewards pass which are so many that intervals can be trusted.

    A small arm of which few rewards were to be expected often has none, by chance, and then no standard error either.
    """
    says = f"{sums.rewarded_A[0]:,} users of champion and {sums.rewarded_A[1]:,} of challenger have a reward"
    yield at_least("rewarded_users", int(sums.rewarded_A.sum()), config.min_rewarded_users, says)
    less, more = live_shifts(sums.rewards_ASM, sums_GA5[:, :, _unit(config)].sum(axis=0))
    says = "rewards that may not have come in an arm that has few of them would put the end at"
    yield stays_apart(deciding.always_valid_low, deciding.always_valid_high, less, more, config.margin, says)


def _alike_before(sums_GA5: Floats) -> Iterator[Check]:
    """Yield a gate: users drawn at random do not differ before the split by more than chance."""
    means_A, effects_GA = _ratio(sums_GA5[:, :, 4], sums_GA5[:, :, 3])
    effect_G = effects_GA[:, 1] - effects_GA[:, 0]
    if effect_G.any():
        z = (means_A[1] - means_A[0]) / float(standard_error(effect_G[None])[0])
        p = float(2 * stats.norm.sf(abs(z)))
        says = (
            f"before the split the same users earned {means_A[0]:.4g} (champion) and {means_A[1]:.4g} each, "
            f"p = {p:.3g} of such a difference of users drawn at random"
        )
        yield at_least("alike_before", p, SIGNIFICANCE, says)
