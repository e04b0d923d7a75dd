"""Estimators written page by page and slot by slot, as in their papers: slow, obvious, for one policy."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipelines.replay.rounds import Rounds, Target

Weight = Callable[[Rounds, Target, int, int], float]
"""Weight of a slot: of the rounds, the policy, the page, the slot."""


def page_weight(rounds: Rounds, target: Target, page: int, slot: int) -> float:
    weight = 1.0
    for each in filled(rounds, page):
        weight *= target.chances.conditional_RP[page, each] / rounds.logged.conditional_RP[page, each]
    return weight


def prefix_weight(rounds: Rounds, target: Target, page: int, slot: int) -> float:
    weight = 1.0
    for each in filled(rounds, page):
        if each <= slot:
            weight *= target.chances.conditional_RP[page, each] / rounds.logged.conditional_RP[page, each]
    return weight


def position_weight(rounds: Rounds, target: Target, page: int, slot: int) -> float:
    return float(target.chances.marginal_RP[page, slot] / rounds.logged.marginal_RP[page, slot])


def cluster_weight(rounds: Rounds, target: Target, page: int, slot: int) -> float:
    return float(target.chances.cluster_RP[page, slot] / rounds.logged.cluster_RP[page, slot])


def accepted(rounds: Rounds, target: Target, page: int, slot: int) -> float:
    return float(all(target.drawn_RP[page, each] for each in filled(rounds, page)))


def pseudo_inverse(rounds: Rounds, target: Target, page: int, slot: int) -> float:
    assert target.pseudo_inverse_R is not None
    return float(target.pseudo_inverse_R[page])


def filled(rounds: Rounds, page: int) -> list[int]:
    return [slot for slot in range(rounds.there_RP.shape[1]) if rounds.there_RP[page, slot]]


def weighted(
    weight: Weight,
    *,
    shrink: Callable[[float], float] = lambda w: w,
    model: bool = False,
    normalised: str = "",
) -> Callable[[Rounds, Target], float]:
    """Return the estimator `expected + shrink(w) (r - q)`, without `expected` and `q` unless it has a model.

    Args:
        weight: Its weights.
        shrink: What is done to each.
        model: Whether the reward model takes part.
        normalised: Nothing; or `page`, `slot`: what has a sum of weights of its own.
    """

    def estimator(rounds: Rounds, target: Target) -> float:
        total = 0.0
        corrections: dict[int, list[tuple[float, float]]] = {}
        for page in range(len(rounds)):
            for slot in filled(rounds, page):
                base = target.expected_RP[page, slot] if model else 0.0
                reward = rounds.rewards_RP[page, slot] - (rounds.predicted_RP[page, slot] if model else 0.0)
                total += base
                group = slot if normalised == "slot" else 0
                corrections.setdefault(group, []).append((shrink(weight(rounds, target, page, slot)), reward))
        for pairs in corrections.values():
            correction = sum(w * r for w, r in pairs)
            if normalised == "slot":
                correction *= len(pairs) / sum(w for w, _ in pairs)
            if normalised == "page":
                correction *= len(rounds) / sum(shrink(weight(rounds, target, page, 0)) for page in range(len(rounds)))
            total += correction
        return total / len(rounds)

    return estimator


def direct_method(rounds: Rounds, target: Target) -> float:
    return sum(target.expected_RP[page, slot] for page in range(len(rounds)) for slot in filled(rounds, page)) / len(
        rounds
    )


def cascade(rounds: Rounds, target: Target) -> float:
    total = 0.0
    for page in range(len(rounds)):
        before = 1.0
        for slot in filled(rounds, page):
            weight = prefix_weight(rounds, target, page, slot)
            residual = rounds.rewards_RP[page, slot] - rounds.predicted_RP[page, slot]
            total += weight * residual + before * target.expected_next_RP[page, slot]
            before = weight
    return total / len(rounds)


CLIP = 3.0


def clip(w: float) -> float:
    return min(w, CLIP)


def switch(w: float) -> float:
    return w if w <= CLIP else 0.0


def optimistic(w: float) -> float:
    return CLIP * w / (w**2 + CLIP)


def harmonic(w: float) -> float:
    return w / (1 - 1 / CLIP + w / CLIP)


REFERENCES: dict[str, Callable[[Rounds, Target], float]] = {
    "ips": weighted(page_weight),
    "rips": weighted(prefix_weight),
    "iips": weighted(position_weight),
    "mips": weighted(cluster_weight),
    "snips": weighted(page_weight, normalised="page"),
    "snrips": weighted(prefix_weight, normalised="slot"),
    "sniips": weighted(position_weight, normalised="slot"),
    "snmips": weighted(cluster_weight, normalised="slot"),
    "clipped_ips": weighted(page_weight, shrink=clip),
    "sub_gaussian_ips": weighted(page_weight, shrink=harmonic),
    "rejection": weighted(accepted, normalised="page"),
    "pi": weighted(pseudo_inverse),
    "dm": direct_method,
    "dr": weighted(page_weight, model=True),
    "iips_dr": weighted(position_weight, model=True),
    "sndr": weighted(page_weight, model=True, normalised="page"),
    "iips_sndr": weighted(position_weight, model=True, normalised="slot"),
    "clipped_dr": weighted(page_weight, shrink=clip, model=True),
    "iips_clipped_dr": weighted(position_weight, shrink=clip, model=True),
    "switch_dr": weighted(page_weight, shrink=switch, model=True),
    "iips_switch_dr": weighted(position_weight, shrink=switch, model=True),
    "dros": weighted(page_weight, shrink=optimistic, model=True),
    "iips_dros": weighted(position_weight, shrink=optimistic, model=True),
    "cascade_dr": cascade,
}
assert math.isclose(harmonic(1.0), 1.0)
