from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from models.recommend.policy import NO_CHOICE, Policy
from pipelines.replay.choosers import Chooser, Opinion, Tabled
from pipelines.replay.marginals import (
    Asked,
    conditionals,
    drawn_marginals,
    enumerated_marginals,
    is_exact,
    marginals,
    page_marginals,
    plain_marginals,
)
from pipelines.replay.plain_draws import draw_plain, is_plain

POLICIES = [
    Policy(epsilon=0.1, temperature=1.0),
    Policy(epsilon=0.2, temperature=0.0),
    Policy(epsilon=0.0, temperature=0.5),
    Policy(epsilon=1.0, temperature=0.0),
    Policy(epsilon=0.05, temperature=0.01),
]


def _opinion(policy: Policy, rows: int, columns: int, eligible: float = 0.9, seed: int = 0) -> Opinion:
    rng = np.random.default_rng(seed)
    groups = np.tile(np.arange(columns) % 3, (rows, 1))[:, :, None] if policy.caps else None
    eligible_RK = rng.random((rows, columns)) < eligible
    return Opinion(
        policy=policy, scores_RK=rng.normal(size=(rows, columns)), eligible_RK=eligible_RK, groups_RKG=groups
    )


def _asked(rows: int, columns: int, slots: int, seed: int = 1) -> Asked:
    rng = np.random.default_rng(seed)
    return Asked(
        choice_RP=np.argsort(rng.random((rows, columns)), axis=1)[:, :slots],
        clusters_RK=rng.integers(0, 3, (rows, columns)),
        values_RPK=rng.random((rows, slots, columns)),
    )


def _seeds(rows: int) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(2).integers(0, 2**63, rows).astype(np.uint64)


def _by_every_page(chooser: Chooser, asked: Asked, row: int) -> tuple[list[float], list[float], list[float]]:
    """The plain truth: add up the probability of every page there could be."""
    slots, columns = asked.choice_RP.shape[1], asked.clusters_RK.shape[1]
    item, cluster, value = np.zeros(slots), np.zeros(slots), np.zeros(slots)
    for page in itertools.permutations(range(columns), slots):
        _, placed = conditionals(
            chooser.take(np.array([row])), asked.take(np.array([row])), np.array([page], dtype=np.int64)
        )
        probability = placed[0].prod()
        for slot, column in enumerate(page):
            wanted = asked.choice_RP[row, slot]
            item[slot] += probability * (column == wanted)
            cluster[slot] += probability * (asked.clusters_RK[row, column] == asked.clusters_RK[row, wanted])
            value[slot] += probability * asked.values_RPK[row, slot, column]
    return item.tolist(), cluster.tolist(), value.tolist()


def test_marginals_of_a_plackett_luce_page_by_hand() -> None:
    weights = np.array([[1.0, 2.0, 3.0]])
    opinion = Opinion(policy=Policy(epsilon=0.0, temperature=1.0), scores_RK=np.log(weights), eligible_RK=weights > 0)
    asked = Asked(
        choice_RP=np.array([[0, 0]]), clusters_RK=np.array([[0, 0, 1]]), values_RPK=np.tile([1.0, 0.0, 0.0], (1, 2, 1))
    )
    found = enumerated_marginals(opinion, asked)
    second = 2 / 6 * 1 / 4 + 3 / 6 * 1 / 3
    assert found.item_RP[0] == pytest.approx([1 / 6, second])
    assert found.expected_RP[0] == pytest.approx([1 / 6, second])
    # the cluster holds items 0 and 1: it misses the second slot where item 2 takes it
    assert found.cluster_RP[0] == pytest.approx([3 / 6, 1 - (1 / 6 * 3 / 5 + 2 / 6 * 3 / 4)])


@pytest.mark.parametrize("policy", [*POLICIES, Policy(epsilon=0.1, temperature=1.0, caps=(("brand", 1),))])
def test_enumerated_marginals_equal_the_sum_over_every_page(policy: Policy) -> None:
    opinion, asked = _opinion(policy, 3, 5, eligible=1.0), _asked(3, 5, 3)
    found = enumerated_marginals(opinion, asked)
    for row in range(3):
        item, cluster, value = _by_every_page(opinion, asked, row)
        assert found.item_RP[row] == pytest.approx(item)
        assert found.cluster_RP[row] == pytest.approx(cluster)
        assert found.expected_RP[row] == pytest.approx(value)


def test_a_table_of_probabilities_has_marginals_too() -> None:
    table = Tabled(weights_RPK=np.array([[[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]]))
    asked = Asked(choice_RP=np.array([[0, 2]]), clusters_RK=np.array([[0, 1, 2]]), values_RPK=np.zeros((1, 2, 3)))
    # whichever of the first two goes first, 0.6 of 0.8 is left to the last
    assert enumerated_marginals(table, asked).item_RP[0] == pytest.approx([0.5, 0.6 / 0.8])


def test_a_small_page_is_exact_whatever_larger_ones_come_with_it() -> None:
    """Four items in three slots, two slots of five, one slot, and a page that is drawn."""
    opinion, asked = _opinion(POLICIES[0], 4, 20, eligible=1.0), _asked(4, 20, 3)
    columns_R, slots_R = np.array([4, 5, 20, 20]), np.array([3, 2, 1, 3])
    opinion.eligible_RK[:] = np.arange(20) < columns_R[:, None]
    asked.choice_RP[:] = np.arange(3)
    together = page_marginals(opinion, asked, columns_R, slots_R, _seeds(4), 64)
    for row, (columns, slots) in enumerate(zip(columns_R, slots_R, strict=True)):
        one = np.array([row])
        alone = page_marginals(
            opinion.take(one), asked.take(one).first(slots), columns_R[one], slots_R[one], _seeds(4)[one], 64
        )
        for name, values_RP in vars(alone).items():
            np.testing.assert_allclose(getattr(together, name)[row, :slots], values_RP[0], rtol=1e-12, err_msg=name)
        if row < 3:
            few = Opinion(
                policy=opinion.policy,
                scores_RK=opinion.scores_RK[one, :columns],
                eligible_RK=np.ones((1, columns), dtype=bool),
            )
            shorter = Asked(
                choice_RP=asked.choice_RP[one, :slots],
                clusters_RK=asked.clusters_RK[one, :columns],
                values_RPK=asked.values_RPK[one, :slots, :columns],
            )
            np.testing.assert_allclose(alone.item_RP, enumerated_marginals(few, shorter).item_RP, rtol=1e-6)


@pytest.mark.parametrize("policy", POLICIES)
def test_drawn_marginals_agree_with_the_exact_ones(policy: Policy) -> None:
    opinion, asked = _opinion(policy, 8, 5), _asked(8, 5, 3)
    exact = enumerated_marginals(opinion, asked)
    for found in (
        plain_marginals(opinion, asked, _seeds(8), 4000),
        drawn_marginals(opinion, asked, _seeds(8), 4000),
    ):
        for name, values_RP in vars(exact).items():
            assert getattr(found, name) == pytest.approx(values_RP, abs=0.04), name  # 5 standard errors of a coin


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("eligible", [1.0, 0.5, 0.15])
def test_chances_along_plain_draws_are_those_of_the_code_that_serves(policy: Policy, eligible: float) -> None:
    rows, columns, slots, draws = 12, 14, 6, 5
    opinion, asked = _opinion(policy, rows, columns, eligible), _asked(rows, columns, slots)
    assert is_plain(opinion)
    drawn = draw_plain(opinion, _seeds(rows), slots, draws)
    item_RDP, cluster_RDP = drawn.chances(asked.choice_RP, asked.clusters_RK)
    rows_X = np.repeat(np.arange(rows), draws)
    along_XP = drawn.column_RDP.reshape(-1, slots)
    expected, _ = conditionals(opinion.take(rows_X), asked.take(rows_X), along_XP)
    assert item_RDP.reshape(-1, slots) == pytest.approx(expected.item_RP, abs=1e-12)
    assert cluster_RDP.reshape(-1, slots) == pytest.approx(expected.cluster_RP, abs=1e-12)


def test_plain_draws_never_repeat_and_stop_when_nothing_is_left() -> None:
    opinion = _opinion(Policy(epsilon=0.3, temperature=1.0), 50, 9, eligible=0.4)
    drawn = draw_plain(opinion, _seeds(50), 6, 4)
    for row in range(50):
        allowed = set(np.flatnonzero(opinion.eligible_RK[row]).tolist())
        for page in drawn.column_RDP[row].tolist():
            shown = [column for column in page if column != NO_CHOICE]
            assert len(set(shown)) == len(shown) == min(len(allowed), 6)
            assert set(shown) <= allowed
            assert page[len(shown) :] == [NO_CHOICE] * (6 - len(shown))


def test_draws_depend_on_nothing_but_the_page() -> None:
    opinion, asked, seeds = _opinion(POLICIES[0], 6, 30), _asked(6, 30, 4), _seeds(6)
    together = plain_marginals(opinion, asked, seeds, 16)
    part = slice(2, 4)
    wider = Opinion(
        policy=opinion.policy,
        scores_RK=np.pad(opinion.scores_RK[part], ((0, 0), (0, 7))),
        eligible_RK=np.pad(opinion.eligible_RK[part], ((0, 0), (0, 7))),
    )
    more = Asked(
        choice_RP=np.pad(asked.choice_RP[part], ((0, 0), (0, 1)), constant_values=NO_CHOICE),
        clusters_RK=np.pad(asked.clusters_RK[part], ((0, 0), (0, 7)), constant_values=99),
        values_RPK=np.pad(asked.values_RPK[part], ((0, 0), (0, 1), (0, 7))),
    )
    apart = plain_marginals(wider, more, seeds[part], 16)
    for name, values_RP in vars(together).items():
        assert getattr(apart, name)[:, :4] == pytest.approx(values_RP[part], abs=1e-12), name


def test_weights_too_far_apart_for_floating_point_are_left_to_the_policy() -> None:
    opinion = _opinion(Policy(epsilon=0.1, temperature=1e-4), 4, 20)
    assert not is_plain(opinion)
    found = marginals(opinion, _asked(4, 20, 3), _seeds(4), 16)
    assert np.isfinite(found.item_RP).all()
    assert not is_plain(_opinion(Policy(epsilon=0.1, temperature=1.0, caps=(("brand", 1),)), 4, 20))


def test_slot_0_is_exact_however_few_pages_are_drawn() -> None:
    opinion, asked = _opinion(POLICIES[0], 5, 40), _asked(5, 40, 3)
    given, _ = conditionals(opinion, asked, np.full((5, 3), NO_CHOICE))
    found = marginals(opinion, asked, _seeds(5), 1)
    assert found.item_RP[:, 0] == pytest.approx(given.item_RP[:, 0])
    assert found.cluster_RP[:, 0] == pytest.approx(given.cluster_RP[:, 0])


def test_pages_of_one_slot_are_exact() -> None:
    assert is_exact(10_000, 1, 1)
    assert is_exact(8, 3, 56)
    assert not is_exact(8, 3, 55)


def test_an_empty_slot_is_asked_about_for_nothing() -> None:
    asked = _asked(2, 6, 3)
    asked.choice_RP[1, 2] = NO_CHOICE
    for found in (
        plain_marginals(_opinion(POLICIES[0], 2, 6), asked, _seeds(2), 8),
        drawn_marginals(_opinion(POLICIES[0], 2, 6), asked, _seeds(2), 8),
    ):
        assert found.item_RP[1, 2] == found.cluster_RP[1, 2] == 0
