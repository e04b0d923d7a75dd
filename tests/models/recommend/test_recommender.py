from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from recommend_cases import NOON, BrokenRetriever, ListRetriever, batch, small_catalogue, small_facts

from features.schemas import DISLIKE
from models.recommend.config import RecommendConfig
from models.recommend.interface import NO_ITEM, Candidates, RequestBatch
from models.recommend.policy import Policy
from models.recommend.ranked import PartRestsError
from models.recommend.recommender import Recommender, RetrievalError, request_seeds
from models.recommend.retrievers import TransitionsRetriever
from models.recommend.rules import Filters

POPULAR = ListRetriever("popular", [3, 0, 1, 2, 4, 5])
TRANSITIONS = ListRetriever("transitions", [1, 4])
GENREC = ListRetriever("genrec", [2, 1, 5])


def recommender(*retrievers: Any, **options: Any) -> Recommender:
    return Recommender(
        small_catalogue(), retrievers or (GENREC, TRANSITIONS, POPULAR), RecommendConfig(**options), small_facts()
    )


def test_a_page_joins_the_lists_less_what_is_seen_or_unavailable():
    page = recommender().pages(batch([[0]]), page_size=2)[0]
    # i0 is seen, i4 unavailable, i5 of tomorrow: genrec says [2, 1], transitions [1], popular [3, 1, 2]
    shares = np.array([1, 1, 0.01]) / 2.01
    assert page.items == ["i1", "i2"]
    assert page.scores == pytest.approx([shares @ [61 / 62, 1, 61 / 62], shares @ [1, 0, 61 / 63]])
    assert page.sources == ["transitions", "genrec"]
    assert page.parts[1] == pytest.approx({"genrec": shares[0], "transitions": 0, "popular": shares[2] * 61 / 63})
    assert page.candidates == ["i1", "i2", "i3"]
    assert page.propensities == [1.0, 1.0]
    assert page.fallback is None


def test_a_user_without_history_gets_the_popular_list_named_so():
    warm, cold = recommender().pages(batch([[0], []]), page_size=3)
    assert cold.items == ["i3", "i0", "i1"]
    assert cold.sources == ["popular"] * 3
    assert cold.fallback == "popular"
    assert warm.fallback is None


def test_users_are_answered_alike_alone_and_together():
    maker = recommender()
    together = maker.pages(batch([[0], [], [2, 1]]))
    alone = [maker.pages(batch([history]))[0] for history in ([0], [], [2, 1])]
    assert together == alone


def test_seen_items_come_back_where_the_configuration_allows_it():
    page = recommender(exclude_seen=False).pages(batch([[2]]), page_size=4)[0]
    assert sorted(page.items) == ["i0", "i1", "i2", "i3"]


def test_excluded_items_stay_out():
    page = recommender().pages(batch([[0]], excluded=[[1, 2]]), page_size=4)[0]
    assert page.items == ["i3"]


def test_a_user_who_has_seen_everything_gets_an_empty_page_with_the_reason():
    page = recommender().pages(batch([[0, 1, 2, 3]]))[0]
    assert (page.items, page.propensities, page.candidates) == ([], [], [])
    assert page.reason == "every item that is available at this moment is already seen or excluded (4)"


@pytest.mark.parametrize(
    ("filters", "history", "size", "items", "reason"),
    [
        (None, [0], 3, ["i1", "i2", "i3"], None),
        (
            None,
            [0],
            4,
            ["i1", "i2", "i3"],
            "3 left of the 4 items available at this moment: 1 already seen or excluded",
        ),
        (
            Filters(category="x", max_price=3.0),
            [0],
            1,
            [],
            "no item of the catalogue passes the filters category='x', max_price=3.0 at this moment",
        ),
        (
            Filters(brand="bolt", min_price=30),  # only i4, which is not available
            [],
            1,
            [],
            "no item of the catalogue passes the filters brand='bolt', min_price=30 at this moment",
        ),
        (
            Filters(brand="acme"),
            [2, 0],
            1,
            [],
            "every item that passes the filters brand='acme' at this moment is already seen or excluded (2)",
        ),
        (
            Filters(brand="acme"),
            [3, 0],
            2,
            ["i2"],
            "1 left of the 2 items passing the filters brand='acme' at this moment: 1 already seen or excluded",
        ),
        (None, [], 5, ["i3", "i0", "i1", "i2"], "there are no more than 4 items available at this moment"),
        (Filters(), [], 4, ["i3", "i0", "i1", "i2"], None),
    ],
)
def test_a_page_shorter_than_asked_says_why(filters, history, size, items, reason):
    page = recommender().pages(batch([history]), page_size=size, filters=[filters])[0]
    assert page.items == items
    assert page.reason == reason


def test_reasons_name_dislikes_and_retrievers_that_failed():
    lenient = recommender(GENREC, POPULAR, exclude_seen=False)
    page = lenient.pages(batch([[0, 1, 2, 3]], event=DISLIKE))[0]
    assert page.reason == "every item that is available at this moment is disliked or excluded (4)"
    page = recommender(GENREC, BrokenRetriever("popular")).pages(batch([[0]]), page_size=3)[0]
    assert page.items == ["i2", "i1"]
    assert page.reason == "only 2 of the 3 items that may be shown were found: a retriever did not answer"


def test_filters_reach_every_retriever():
    pages = recommender().pages(batch([[0], [0]]), filters=[Filters(brand="acme"), None])
    assert pages[0].items == ["i2"]
    assert pages[1].items == ["i1", "i2", "i3"]
    with pytest.raises(ValueError, match="filters: expected one per request, 1, got 2"):
        recommender().pages(batch([[0]]), filters=[None, None])


@pytest.mark.parametrize("retrievers", [(BrokenRetriever("genrec"), TRANSITIONS, POPULAR), (TRANSITIONS, POPULAR)])
def test_a_broken_or_absent_first_choice_is_replaced_and_named(retrievers):
    warm, cold = recommender(*retrievers).pages(batch([[0], []]), page_size=1)
    assert (warm.items, warm.fallback) == (["i1"], "transitions")
    assert cold.fallback == "popular"


def test_a_first_choice_that_is_switched_off_is_no_fallback():
    page = recommender(TRANSITIONS, POPULAR, genrec_weight=0).pages(batch([[0]]), page_size=1)[0]
    assert (page.items, page.fallback) == (["i1"], None)


def test_all_retrievers_broken():
    with pytest.raises(RetrievalError, match="no retriever could answer; popular: no weights for 1 requests"):
        recommender(BrokenRetriever("popular")).pages(batch([[0]]))


def test_candidates_raise_what_pages_would_replace():
    with pytest.raises(RuntimeError, match="no weights for 1 requests"):
        recommender(BrokenRetriever("genrec"), POPULAR).candidates(batch([[0]]), 3)
    lists = recommender().candidates(batch([[0]]), 2)
    assert [entry.source for entry in lists] == ["genrec", "transitions", "popular"]
    assert lists[0].items_BK.tolist() == [[2, 1]]


def test_logged_propensities_can_be_recomputed_from_the_logged_page():
    maker = recommender(epsilon=0.5, temperature=0.05)
    for page in maker.pages(batch([[0]] * 20), page_size=2, seeds_B=np.arange(20, dtype=np.uint64)):
        choice_BP = np.array([[page.candidates.index(item) for item in page.items]])
        scores_BK = np.array([page.candidate_scores], dtype=np.float32)
        log_BP = Policy(epsilon=0.5, temperature=0.05).log_prob(scores_BK, np.ones(scores_BK.shape, bool), choice_BP)
        np.testing.assert_allclose(np.exp(log_BP[0]), page.propensities)


def test_exploration_changes_pages_and_a_seed_repeats_them():
    maker = recommender(epsilon=1.0)
    pages = [maker.pages(batch([[0]] * 10), 2, seed + np.arange(10, dtype=np.uint64)) for seed in (0, 0, 10)]
    assert pages[0] == pages[1] != pages[2]
    assert pages[0][0].propensities == pytest.approx([1 / 3, 1 / 2])


def test_exploring_pages_are_those_of_single_requests_and_the_start_of_longer_ones():
    maker, seeds_B = recommender(epsilon=0.8, temperature=0.1), request_seeds(["a", "b", "c"])
    together = maker.pages(batch([[0], [], [2, 1]]), 3, seeds_B)
    alone = [maker.pages(batch([history]), 3, seeds_B[[row]])[0] for row, history in enumerate(([0], [], [2, 1]))]
    assert together == alone
    shorter = maker.pages(batch([[0], [], [2, 1]]), 1, seeds_B)
    assert [page.items for page in shorter] == [page.items[:1] for page in together]


@pytest.mark.parametrize("size", [0, 51])
def test_a_page_size_out_of_bounds_is_refused(size):
    with pytest.raises(ValueError, match=f"page_size: expected 1 to 50, got {size}"):
        recommender().pages(batch([[0]]), page_size=size)


class FixedRanker:
    """Scores every item by its number, the highest first; breaks where it is told to."""

    name = "ranker"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def score(self, requests: RequestBatch, items_BK: np.ndarray) -> np.ndarray:
        if self.broken:
            raise RuntimeError("no weights")
        return np.where(items_BK == NO_ITEM, -np.inf, items_BK).astype(np.float32)


def ranking(ranker: FixedRanker, **options: Any) -> Recommender:
    config = RecommendConfig(**options)
    return Recommender(small_catalogue(), (GENREC, TRANSITIONS, POPULAR), config, small_facts(), ranker)


def test_a_ranker_orders_the_candidates_and_is_no_source_of_them():
    page = ranking(FixedRanker(), ranker_weight=3.0).pages(batch([[0]]), page_size=3)[0]
    # the fusion says i1, i2, i3 (see the first test), the ranker i3, i2, i1
    shares = np.array([1, 1, 0.01]) / 2.01
    fused = [shares @ [61 / 62, 1, 61 / 62], shares @ [1, 0, 61 / 63], shares @ [0, 0, 1]]
    expected = {
        "i1": (fused[0] + 3 * 61 / 63) / 4,
        "i2": (fused[1] + 3 * 61 / 62) / 4,
        "i3": (fused[2] + 3 * 61 / 61) / 4,
    }
    assert dict(zip(page.items, page.scores, strict=True)) == pytest.approx(expected)
    assert page.scores == sorted(page.scores, reverse=True)
    assert dict(zip(page.items, page.sources, strict=True)) == {"i1": "transitions", "i2": "genrec", "i3": "popular"}
    for parts, score in zip(page.parts, page.scores, strict=True):
        assert list(parts) == ["genrec", "transitions", "popular", "ranker"]
        assert sum(parts.values()) == pytest.approx(score)


def test_a_ranker_that_is_much_heavier_than_the_retrievers_decides():
    maker = ranking(FixedRanker(), ranker_weight=100.0)
    assert maker.pages(batch([[0], []]), page_size=3)[0].items == ["i3", "i2", "i1"]
    page, fusion = maker.orders(batch([[0]]), 3)
    assert page.items_BK.tolist() == [[3, 2, 1]]
    assert fusion.items_BK.tolist() != page.items_BK.tolist()


@pytest.mark.parametrize(
    ("broken", "weight", "fallbacks"),
    [(True, 1.0, ["without_ranker", "popular+without_ranker"]), (False, 0.0, [None, "popular"])],
)
def test_without_the_ranker_the_order_of_the_fusion_stands(broken, weight, fallbacks):
    pages = ranking(FixedRanker(broken), ranker_weight=weight).pages(batch([[0], []]), page_size=3)
    plain = recommender().pages(batch([[0], []]), page_size=3)
    assert pages == [dataclasses.replace(page, fallback=name) for page, name in zip(plain, fallbacks, strict=True)]


def test_a_retriever_beside_the_first_choice_that_fails_is_named_where_it_would_have_been_asked():
    warm, cold = recommender(GENREC, BrokenRetriever("transitions"), POPULAR).pages(batch([[0], []]), page_size=1)
    assert (warm.items, warm.fallback) == (["i2"], "without_transitions")
    assert cold.fallback == "popular"


def test_a_part_that_rests_is_left_out_without_a_word(caplog):
    class Resting(BrokenRetriever):
        def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
            raise PartRestsError("for a moment")

    page = recommender(Resting("genrec"), TRANSITIONS, POPULAR).pages(batch([[0]]), page_size=1)[0]
    assert (page.items, page.fallback, caplog.records) == (["i1"], "transitions", [])


def test_caps_hold_on_every_page_and_shorten_it_where_nothing_else_is_left():
    # brands of the four that may be shown: i0 acme, i1 bolt, i2 acme, i3 none; categories: i0 and i1 share one
    page = recommender(max_per_brand=1).pages(batch([[]]), page_size=4)[0]
    assert page.items == ["i3", "i0", "i1"]
    assert page.reason == "a page holds at most 1 of one brand: of the candidates left, none may follow these 3"
    page = recommender(max_per_brand=1, max_per_category=1).pages(batch([[]]), page_size=3)[0]
    assert page.items == ["i3", "i0"]
    assert "at most 1 of one brand and 1 of one category" in page.reason
    assert recommender(max_per_brand=2, max_per_category=2).pages(batch([[]]), page_size=4)[0].reason is None


def test_pages_of_one_ranking_continue_each_other():
    maker = recommender()
    ranked = maker.ranked(batch([[0]]), 1)
    shown: list[str] = []
    for _ in range(3):
        now = batch([[0]], excluded=[maker.catalogue.numbers(shown).tolist()])
        (page,) = maker.drawn(maker.ranked_before(now, ranked.fused.row(0), ranked.fallbacks, [None]), 1)
        assert page.items == maker.pages(batch([[0]]), 3)[0].items[len(shown) : len(shown) + 1]
        shown += page.items
    assert shown == ["i1", "i2", "i3"]


@pytest.mark.integration
def test_frequencies_of_20000_pages_follow_their_logged_propensities():
    maker = recommender(epsilon=0.4, temperature=0.2, max_per_brand=1, max_per_category=1)
    pages = [
        page
        for start in range(0, 20_000, 2000)
        for page in maker.pages(batch([[]] * 2000), 3, request_seeds([f"r{n}" for n in range(start, start + 2000)]))
    ]
    for slots in (1, 2, 3):
        counts = Counter(tuple(page.items[:slots]) for page in pages)
        chances = {tuple(page.items[:slots]): math.prod(page.propensities[:slots]) for page in pages}
        assert sum(chances.values()) == pytest.approx(1.0)  # no page that could be made was never made
        observed = np.array([counts[prefix] for prefix in chances])
        expected = 20_000 * np.array(list(chances.values()))
        assert expected.min() > 5
        assert scipy.stats.chisquare(observed, expected, sum_check=False).pvalue > 0.001


def transitions(weights: dict[tuple[int, int], float]) -> TransitionsRetriever:
    rows, columns = zip(*weights, strict=True)
    return TransitionsRetriever(sp.csr_matrix((list(weights.values()), (rows, columns)), shape=(6, 6)), np.ones(6))


def test_similar_items_come_from_transitions():
    maker = recommender(transitions({(0, 1): 0.5, (0, 4): 0.9, (0, 2): 0.75}), POPULAR)
    assert maker.similar("i0", 3, NOON) == [("i2", 0.75), ("i1", 0.5)]  # i4 is not available
    assert maker.similar("i1", 3, NOON) == []
    with pytest.raises(ValueError, match="item 'nope' is not in the catalogue"):
        maker.similar("nope", 3, NOON)
    with pytest.raises(ValueError, match="need the transitions retriever"):
        recommender(POPULAR).similar("i0", 3, NOON)


def test_popular_items_behind_the_transitions_count_as_popular():
    page = recommender(transitions({(0, 1): 0.5}), POPULAR, genrec_weight=0).pages(batch([[0], [3]]), page_size=3)
    assert page[0].sources == ["transitions", "popular", "popular"]
    assert (page[1].sources, page[1].fallback) == (["popular"] * 3, "popular")


def test_nonsense_is_refused():
    with pytest.raises(
        ValueError, match=r"distinct ones of genrec, transitions, two_tower, popular with popular, got \['genrec'\]"
    ):
        recommender(GENREC)
    with pytest.raises(ValueError, match=r"page_size: expected at most max_page_size = 5, got 6; epsilon: .* got 2"):
        RecommendConfig(page_size=6, max_page_size=5, epsilon=2)
    with pytest.raises(ValueError, match=r"popular_weight: expected more than 0.* got 0"):
        RecommendConfig(popular_weight=0)
    with pytest.raises(ValueError, match="retriever 'ann' has no fusion weight; expected one of genrec"):
        RecommendConfig().weight("ann")


def test_frequencies_over_two_pages_of_one_list_follow_the_product_of_their_propensities():
    maker, lists = recommender(epsilon=0.4, temperature=0.2), 5000
    ranked = maker.ranked(batch([[]] * lists), 1)
    first = maker.drawn(ranked, 1, request_seeds([f"a{n}" for n in range(lists)]))
    shown = [maker.catalogue.numbers(page.items).tolist() for page in first]
    now = batch([[]] * lists, excluded=shown)
    rest = maker.ranked_before(now, ranked.fused, ranked.fallbacks, ranked.filters)
    second = maker.drawn(rest, 1, request_seeds([f"b{n}" for n in range(lists)]))
    pages = [
        (one.items[0], other.items[0], one.propensities[0] * other.propensities[0])
        for one, other in zip(first, second, strict=True)
    ]
    counts = Counter((one, other) for one, other, _ in pages)
    chances = {(one, other): chance for one, other, chance in pages}
    assert len(chances) == 4 * 3
    assert sum(chances.values()) == pytest.approx(1.0)
    observed = np.array([counts[pair] for pair in chances])
    expected = lists * np.array(list(chances.values()))
    assert scipy.stats.chisquare(observed, expected, sum_check=False).pvalue > 0.001
