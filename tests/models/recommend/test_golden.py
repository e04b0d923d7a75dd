from __future__ import annotations

import pytest
from recommend_cases import ListRetriever, batch, small_catalogue, small_facts

from models.recommend.config import RecommendConfig
from models.recommend.golden import check, record
from models.recommend.recommender import Recommender


@pytest.fixture
def maker() -> Recommender:
    retrievers = [ListRetriever("genrec", [2, 1, 3]), ListRetriever("popular", [3, 0, 1])]
    return Recommender(small_catalogue(), retrievers, RecommendConfig(), small_facts())


@pytest.fixture
def document(maker: Recommender) -> dict:
    return record(maker, batch([[0], []]))


def test_the_same_answers_pass(maker, document):
    assert document["lists"][0]["genrec"] == {"items": ["i2", "i1", "i3"], "scores": [100.0, 99.0, 98.0]}
    assert document["lists"][1]["genrec"] == {"items": [], "scores": []}
    check(maker, document)


def test_near_ties_may_swap(maker, document):
    document["lists"][0]["genrec"] = {"items": ["i1", "i2", "i3"], "scores": [99.97, 99.03, 98.0]}
    with pytest.raises(ValueError, match=r"'u0', genrec: place 0: expected item 'i1', got 'i2'"):
        check(maker, document)  # 99.97 and 99.03 are further apart than a thousandth of 100
    document["lists"][0]["genrec"]["scores"] = [99.95, 99.9, 98.0]
    document["lists"][0]["genrec"]["items"] = ["i2", "i1", "i3"]
    with pytest.raises(ValueError, match=r"genrec: place 1: expected score 99\.9, got 99\.0"):
        check(maker, document)


def test_a_swap_of_recorded_near_ties_passes_and_frees_the_page():
    first = Recommender(
        small_catalogue(), [ListRetriever("popular", [1, 2, 3], step=0.01)], RecommendConfig(), small_facts()
    )
    second = Recommender(
        small_catalogue(), [ListRetriever("popular", [2, 1, 3], step=0.01)], RecommendConfig(), small_facts()
    )
    document = record(first, batch([[0]]))
    check(second, document)
    assert second.pages(batch([[0]]))[0].items != document["pages"][0]


@pytest.mark.parametrize(
    ("lists", "mistake"),
    [
        (
            {"genrec": {"items": ["i5", "i1", "i3"], "scores": [100.0, 90.0, 98.0]}},
            "genrec: place 1: expected score 90",
        ),
        (
            {"genrec": {"items": ["i2", "i3", "i1"], "scores": [100.0, 99.0, 98.0]}},
            "genrec: place 1: expected item 'i3', got 'i1'",
        ),
        ({"genrec": {"items": ["i2"], "scores": [100.0]}}, "genrec: expected 1 items, got 3"),
        ({"transitions": {"items": [], "scores": []}}, "transitions: expected an answer, this retriever gave none"),
    ],
)
def test_other_answers_are_refused(maker, document, lists, mistake):
    document["lists"][0] = lists
    with pytest.raises(ValueError, match=f"1 golden answers came out different.*'u0', {mistake}"):
        check(maker, document)


def test_another_page_from_the_same_lists_is_refused(maker, document):
    document["pages"][0] = ["i3"]
    with pytest.raises(ValueError, match=r"'u0', page: expected \['i3'\], got \['i2', 'i1', 'i3'\]"):
        check(maker, document)
