from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.stats
from recommend_cases import ListRetriever, batch, random_facts, small_catalogue, small_facts

from features.semantic_ids import Catalogue
from models.recommend.config import RecommendConfig
from models.recommend.diversity import apart_from_shown, similarity, weight_of
from models.recommend.fusion import Fused
from models.recommend.interface import NO_ITEM
from models.recommend.policy import NO_CHOICE, NO_GROUP, Policy
from models.recommend.recommender import Page, Recommender, request_seeds

SCORES_K = np.array([1.0, 0.9, 0.8, 0.2])
CODES_KL = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 0, 0]])
"""Items 0 and 1 share two of three levels, both one with item 2, none with item 3."""


def tiled(values: np.ndarray, times: int) -> np.ndarray:
    return np.tile(values, (times, *[1] * values.ndim))


def test_a_slot_is_filled_by_maximal_marginal_relevance():
    policy = Policy(epsilon=0.0, temperature=0.0, diversity=0.5)
    choice_BP, propensity_BP = policy.draw(
        SCORES_K[None], np.ones((1, 4), bool), np.zeros((1, 4)), None, CODES_KL[None]
    )
    # after 0, half of 0.9 - 2/3, 0.8 - 1/3, 0.2 - 0: 2 leads; after 0 and 2, 0.9 - 2/3 leads 0.2 narrowly
    assert choice_BP.tolist() == [[0, 2, 1, 3]]
    assert propensity_BP.tolist() == [[1.0] * 4]
    assert policy.name == "epsilon=0,temperature=0,diversity=0.5"


def test_a_temperature_keeps_its_unit():
    policy = Policy(epsilon=0.2, temperature=0.5, diversity=0.6)
    weight = 0.6 / 0.4
    _, propensity_BP = policy.draw(SCORES_K[None], np.ones((1, 4), bool), np.zeros((1, 2)), None, CODES_KL[None])
    first = [math.exp(score / 0.5) for score in SCORES_K]
    second = [math.exp((SCORES_K[k] - weight * near) / 0.5) for k, near in ((1, 2 / 3), (2, 1 / 3), (3, 0))]
    assert propensity_BP[0].tolist() == pytest.approx(
        [0.8 * first[0] / sum(first) + 0.2 / 4, 0.8 * second[0] / sum(second) + 0.2 / 3]
    )


def slow_draw(
    policy: Policy,
    scores_K: np.ndarray,
    eligible_K: np.ndarray,
    uniform_P: np.ndarray,
    groups_KG: np.ndarray,
    codes_KL: np.ndarray,
) -> tuple[list[int], list[float]]:
    """The draw of one page, word by word."""
    page: list[int] = []
    chances: list[float] = []
    for uniform in uniform_P:
        left = [k for k in range(len(scores_K)) if eligible_K[k] and k not in page]
        for cap, (_, most) in enumerate(policy.caps):
            counts = Counter(groups_KG[k, cap] for k in page if groups_KG[k, cap] != NO_GROUP)
            left = [k for k in left if counts[groups_KG[k, cap]] < most]
        if not left:
            break
        final = {k: scores_K[k] - cost_of(policy, codes_KL, k, page) for k in left}
        best = max(final.values())
        if policy.temperature:
            worth = {k: math.exp((score - best) / policy.temperature) for k, score in final.items()}
        else:
            worth = {k: float(k == next(k for k in left if final[k] == best)) for k in left}
        chance = {k: (1 - policy.epsilon) * worth[k] / sum(worth.values()) + policy.epsilon / len(left) for k in left}
        passed = list(itertools.accumulate(chance.values()))
        page.append(next(k for k, total in zip(left, passed, strict=True) if total > uniform * passed[-1]))
        chances.append(chance[page[-1]])
    return page, chances


def cost_of(policy: Policy, codes_KL: np.ndarray, item: int, page: list[int]) -> float:
    levels = codes_KL.shape[1]
    shared = [
        len(list(itertools.takewhile(bool, (codes_KL[item] == codes_KL[other]).tolist()))) / levels for other in page
    ]
    return policy.diversity / (1 - policy.diversity) * max(shared, default=0.0)


@pytest.mark.parametrize("seed", range(40))
def test_draws_and_their_chances_equal_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    size, width, slots, levels = rng.integers([1, 1, 1, 1], [6, 15, 9, 5]).tolist()
    policy = Policy(
        epsilon=[0.0, 0.3, 1.0][rng.integers(3)],
        temperature=[0.0, 0.1, 2.0][rng.integers(3)],
        caps=[(), (("brand", 1),), (("brand", 2), ("category", 1))][rng.integers(3)],
        diversity=[0.0, 0.2, 0.7][rng.integers(3)],
    )
    scores_BK = rng.normal(size=(size, width)).astype(np.float32)
    eligible_BK, uniform_BP = rng.random((size, width)) < 0.8, rng.random((size, slots))
    groups_BKG = rng.integers(-1, 3, (size, width, len(policy.caps)))
    codes_BKL = rng.integers(0, 2, (size, width, levels))
    choice_BP, propensity_BP = policy.draw(scores_BK, eligible_BK, uniform_BP, groups_BKG, codes_BKL)
    for row in range(size):
        parts = (scores_BK, eligible_BK, uniform_BP, groups_BKG, codes_BKL)
        page, chances = slow_draw(policy, *(part[row] for part in parts))
        empty = slots - len(page)
        assert choice_BP[row].tolist() == page + [NO_CHOICE] * empty
        assert propensity_BP[row].tolist() == pytest.approx(chances + [1.0] * empty)
    log_BP = policy.log_prob(scores_BK, eligible_BK, choice_BP, groups_BKG, codes_BKL)
    np.testing.assert_array_equal(log_BP, np.log(propensity_BP))


@pytest.mark.parametrize("diversity", [0.2, 0.8])
def test_all_ordered_pages_together_have_probability_one(diversity):
    policy = Policy(epsilon=0.1, temperature=0.3, caps=(("brand", 1),), diversity=diversity)
    groups_KG = np.array([[7], [NO_GROUP], [7], [NO_GROUP]])
    pages = [page for page in itertools.permutations(range(4), 3) if not {0, 2} <= set(page)]
    log_BP = policy.log_prob(
        tiled(SCORES_K, len(pages)),
        np.ones((len(pages), 4), bool),
        np.array(pages),
        tiled(groups_KG, len(pages)),
        tiled(CODES_KL, len(pages)),
    )
    assert np.exp(log_BP.sum(axis=1)).sum() == pytest.approx(1.0)


def test_codes_that_are_not_asked_for_change_nothing():
    rng = np.random.default_rng(3)
    scores_BK, uniform_BP = rng.random((50, 8)), rng.random((50, 4))
    policy = Policy(epsilon=0.2, temperature=0.1)
    with_codes = policy.draw(scores_BK, scores_BK > 0.2, uniform_BP, None, rng.integers(0, 2, (50, 8, 3)))
    for one, other in zip(with_codes, policy.draw(scores_BK, scores_BK > 0.2, uniform_BP), strict=True):
        np.testing.assert_array_equal(one, other)


def alike(choice_BP: np.ndarray, codes_BKL: np.ndarray) -> float:
    """The mean similarity of two items of a page."""
    codes_BPL = np.take_along_axis(codes_BKL, choice_BP[..., None], axis=1)
    pairs = itertools.combinations(range(choice_BP.shape[1]), 2)
    return float(np.mean([similarity(codes_BPL[:, one], codes_BPL[:, other]).mean() for one, other in pairs]))


@pytest.mark.parametrize(("epsilon", "temperature"), [(0.0, 0.0), (0.05, 0.1)])
def test_pages_of_a_random_catalogue_grow_more_diverse(epsilon, temperature):
    rng = np.random.default_rng(5)
    scores_BK, codes_BKL = rng.random((200, 60)), rng.integers(0, 4, (200, 60, 3))
    uniform_BP = rng.random((200, 10))
    found, relevance = [], []
    for diversity in (0.0, 0.1, 0.3, 0.6):
        policy = Policy(epsilon=epsilon, temperature=temperature, diversity=diversity)
        choice_BP, _ = policy.draw(scores_BK, np.ones((200, 60), bool), uniform_BP, None, codes_BKL)
        found.append(alike(choice_BP, codes_BKL))
        relevance.append(float(np.take_along_axis(scores_BK, choice_BP, axis=1).mean()))
    # two random IDs share the first level at a rate of 1/4, two at 1/16, three at 1/64, a third of a whole each
    assert found[0] == pytest.approx((1 / 4 + 1 / 16 + 1 / 64) / 3, rel=0.1)
    assert all(later < earlier - 0.01 for earlier, later in itertools.pairwise(found[:3]))
    assert found[3] <= found[2]
    assert relevance == sorted(relevance, reverse=True)


POPULAR = ListRetriever("popular", [3, 0, 1, 2, 4, 5])
BOOSTS = ({"category": "outdoor", "factor": 1.3}, {"items": ["i2"], "addend": 0.2})


def recommender(**options: Any) -> Recommender:
    return Recommender(small_catalogue(), [POPULAR], RecommendConfig(**options), small_facts())


def log_propensities(maker: Recommender, page: Page) -> np.ndarray:
    """What the policy says of a logged page, by what its log holds."""
    items_BF = maker.catalogue.numbers(page.candidates)[None]
    scores_BF = np.array([page.candidate_scores], np.float32)
    chosen_BP = np.array([[page.candidates.index(item) for item in page.items]])
    traits = maker.traits(items_BF)
    return maker.policy.log_prob(scores_BF, np.ones(items_BF.shape, bool), chosen_BP, *traits)[0]


@pytest.mark.integration
def test_frequencies_of_20000_pages_with_caps_boosts_and_diversity_follow_their_propensities():
    options = {"max_per_brand": 1, "max_per_category": 1, "boosts": BOOSTS, "diversity": 0.25}
    maker = recommender(epsilon=0.4, temperature=0.2, **options)
    pages = [
        page
        for start in range(0, 20_000, 2000)
        for page in maker.pages(batch([[]] * 2000), 3, request_seeds([f"r{n}" for n in range(start, start + 2000)]))
    ]
    for slots in (1, 2, 3):
        counts = Counter(tuple(page.items[:slots]) for page in pages)
        chances = {tuple(page.items[:slots]): math.prod(page.propensities[:slots]) for page in pages}
        assert sum(chances.values()) == pytest.approx(1.0)
        observed = np.array([counts[prefix] for prefix in chances])
        expected = 20_000 * np.array(list(chances.values()))
        assert expected.min() > 5
        assert scipy.stats.chisquare(observed, expected, sum_check=False).pvalue > 0.001
    for page in pages[:100]:
        np.testing.assert_allclose(np.exp(log_propensities(maker, page)), page.propensities, rtol=1e-6)


def test_a_later_page_keeps_apart_from_what_was_shown():
    maker = recommender(diversity=0.5)
    ranked = maker.ranked(batch([[]], excluded=[[2]]), 1)
    plain = maker.drawn(ranked, 3)[0]
    (page,) = maker.drawn(ranked, 3, None, [["i2", "unknown"]])
    assert plain.candidates == ["i3", "i0", "i1"]
    # i2 is (1, 0): i3 = (1, 1) shares one of two levels, i0 and i1 share none
    assert page.candidates == ["i0", "i1", "i3"]
    was = dict(zip(plain.candidates, plain.candidate_scores, strict=True))
    now = dict(zip(page.candidates, page.candidate_scores, strict=True))
    assert now == pytest.approx({"i0": was["i0"], "i1": was["i1"], "i3": was["i3"] - 0.5})
    for part, score in zip(page.parts, page.scores, strict=True):
        assert sum(part.values()) == pytest.approx(score)
    assert {item: part["diversity"] for item, part in zip(page.items, page.parts, strict=True)} == pytest.approx(
        {"i0": 0.0, "i1": 0.0, "i3": -0.5}
    )
    assert maker.drawn(ranked, 3, None, [[]])[0] == plain


@pytest.mark.parametrize("seed", range(10))
def test_what_was_shown_is_compared_with_every_candidate(seed):
    rng = np.random.default_rng(seed)
    items, levels = int(rng.integers(1, 80)), int(rng.integers(1, 5))
    codes_NL = rng.integers(0, 3, (items, levels))
    catalogue = Catalogue([f"i{n}" for n in range(items)], codes_NL, (3,) * levels)
    items_BF = rng.integers(-1, items, (4, 7))
    fused = Fused(
        items_BF=items_BF,
        scores_BF=np.zeros((4, 7), np.float32),
        parts_BFR=np.zeros((4, 7, 0), np.float32),
        sources=(),
        named_BF=np.zeros((4, 7), np.int64),
    )
    shown = [rng.integers(0, items, rng.integers(0, 9)).tolist() for _ in range(4)]
    apart = apart_from_shown(fused, catalogue, [[f"i{n}" for n in row] for row in shown], 2.0)
    for row, numbers in enumerate(shown):
        for item, score in zip(apart.items_BF[row], apart.scores_BF[row], strict=True):
            near = max((float(similarity(codes_NL[item], codes_NL[other])) for other in numbers), default=0.0)
            assert score == pytest.approx(0.0 if item == NO_ITEM else -2 * near)


def test_a_later_page_can_be_judged_by_its_own_candidates():
    rng = np.random.default_rng(11)
    catalogue = Catalogue([f"i{n}" for n in range(60)], rng.integers(0, 3, (60, 3)), (3, 3, 3))
    config = RecommendConfig(epsilon=0.2, temperature=0.1, diversity=0.4, max_per_brand=3, boosts=BOOSTS)
    popular = ListRetriever("popular", rng.permutation(60).tolist())
    maker = Recommender(catalogue, [popular], config, random_facts(rng, 60, catalogue))
    ranked = maker.ranked(batch([[]] * 30), 5)
    first = maker.drawn(ranked, 5, request_seeds([f"a{n}" for n in range(30)]))
    shown = [page.items for page in first]
    now = batch([[]] * 30, excluded=[catalogue.numbers(items).tolist() for items in shown])
    rest = maker.ranked_before(now, ranked.fused, ranked.fallbacks, ranked.filters)
    second = maker.drawn(rest, 5, request_seeds([f"b{n}" for n in range(30)]), shown)
    alone = maker.drawn(rest, 5, request_seeds([f"b{n}" for n in range(30)]))
    assert second != alone
    for before, page in zip(first, second, strict=True):
        assert not set(before.items) & set(page.items)
        assert page.candidate_scores == sorted(page.candidate_scores, reverse=True)
        np.testing.assert_allclose(np.exp(log_propensities(maker, page)), page.propensities, rtol=1e-6)
        for item, part in zip(page.items, page.parts, strict=True):
            codes_L = catalogue.codes_NL[catalogue.numbers([item])[0]]
            near = similarity(catalogue.codes_NL[catalogue.numbers(before.items)], codes_L).max()
            assert part["diversity"] == pytest.approx(-weight_of(0.4) * near)


def test_mistakes_are_named():
    with pytest.raises(
        ValueError, match=r"codes: expected the semantic ID of each candidate, shape \[1, 2, levels\], .*"
    ):
        Policy(epsilon=0, temperature=0, diversity=0.5).draw(np.zeros((1, 2)), np.ones((1, 2), bool), np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"diversity: expected at least 0 and less than 1, got 1"):
        Policy(epsilon=0, temperature=0, diversity=1)
    with pytest.raises(ValueError, match=r"diversity: expected at least 0 and less than 1, got -0\.1"):
        RecommendConfig(diversity=-0.1)
