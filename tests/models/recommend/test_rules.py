from __future__ import annotations

import numpy as np
import pytest
from recommend_cases import DAY, NOON, batch, items_table, small_catalogue, small_facts

from features.schemas import DISLIKE
from features.semantic_ids import Catalogue
from models.recommend.rules import CatalogueFacts, Filters, with_exclusions


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, [0, 1, 2, 3]),  # i4 is not available, i5 not before tomorrow
        (Filters(category="toys"), [0, 1, 2]),
        (Filters(category="outdoor"), [0, 1]),
        (Filters(brand="bolt"), [1]),
        (Filters(min_price=20), [1, 2]),
        (Filters(max_price=20.0), [0, 1]),
        (Filters(category="toys", brand="acme", min_price=11, max_price=30), [2]),
        (Filters(category="no such"), []),
    ],
)
def test_allowed_items(filters, expected):
    assert np.flatnonzero(small_facts().allowed(NOON, filters)).tolist() == expected


def test_an_item_appears_at_its_time():
    assert np.flatnonzero(small_facts().allowed(NOON + DAY)).tolist() == [0, 1, 2, 3, 5]


def test_an_item_without_facts_is_available_under_its_id():
    catalogue = Catalogue(["new", "i0"], np.array([[0, 0], [0, 1]]), (1, 2))
    facts = CatalogueFacts(items_table(), catalogue)
    assert facts.table["title"].to_pylist() == ["new", "Red kite"]
    assert facts.allowed(NOON).tolist() == [True, True]
    assert facts.allowed(NOON, Filters(max_price=100)).tolist() == [False, True]
    assert facts.table["item_id"].to_pylist() == ["new", "i0"]
    assert CatalogueFacts(facts.table, catalogue).table == facts.table


def test_facts_without_any_row():
    facts = CatalogueFacts(items_table().slice(0, 0), small_catalogue())
    assert facts.allowed(NOON, Filters(category="toys")).sum() == 0
    assert facts.allowed(NOON).sum() == 6


@pytest.mark.parametrize(
    ("exclude_seen", "event", "expected"),
    [
        (True, "click", [[0, 2, 4, 5], [4, 5]]),
        (False, "click", [[2, 4, 5], [4, 5]]),
        (False, DISLIKE, [[0, 2, 4, 5], [4, 5]]),
    ],
)
def test_exclusions(exclude_seen, event, expected):
    requests = batch([[0, 0], []], excluded=[[2], []], event=event)
    ruled = with_exclusions(requests, small_facts(), [None, None], exclude_seen)
    assert [part.tolist() for part in np.split(ruled.excluded_items, ruled.excluded_offsets[1:-1])] == expected
    assert ruled.user_ids == requests.user_ids


def test_filters_from_a_document():
    assert Filters.from_document({"brand": "acme", "max_price": 3}) == Filters(brand="acme", max_price=3)
    with pytest.raises(ValueError, match="unknown colour; expected some of category, brand, min_price, max_price"):
        Filters.from_document({"colour": "red"})


def test_all_mistakes_of_filters_are_named():
    with pytest.raises(ValueError, match=r"brand: .* got 3; min_price: .* got 'x'; max_price: .* got -1"):
        Filters.from_document({"brand": 3, "min_price": "x", "max_price": -1})
    with pytest.raises(ValueError, match=r"min_price: expected at most max_price = 1, got 2"):
        Filters(min_price=2, max_price=1)
