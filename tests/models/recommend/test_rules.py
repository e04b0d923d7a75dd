from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recommend_cases import (
    DAY,
    NOON,
    batch,
    items_table,
    passes,
    random_facts,
    random_filters,
    small_catalogue,
    small_facts,
)

from features.schemas import DISLIKE
from features.semantic_ids import Catalogue
from models.recommend import rules
from models.recommend.rules import CatalogueFacts, Filters, with_rules


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
        (True, "click", [[0, 2], []]),
        (False, "click", [[2], []]),
        (False, DISLIKE, [[0, 2], []]),
    ],
)
def test_exclusions_hold_only_what_is_special_to_a_request(exclude_seen, event, expected):
    requests = batch([[0, 0], []], excluded=[[2, 2], []], event=event)
    ruled = with_rules(requests, small_facts(), [None, None], exclude_seen)
    assert [part.tolist() for part in np.split(ruled.excluded_items, ruled.excluded_offsets[1:-1])] == expected
    assert ruled.user_ids == requests.user_ids
    assert ruled.eligible is not None
    assert [mask.allowed_N.tolist() for mask in ruled.eligible.masks] == [[True] * 4 + [False] * 2]


def test_rules_are_set_once():
    ruled = with_rules(batch([[0]]), small_facts(), [None], True)
    with pytest.raises(ValueError, match="expected none with `eligible`"):
        with_rules(ruled, small_facts(), [None], True)


def test_masks_are_shared_inside_a_batch_and_kept_between_batches():
    facts = small_facts()
    asked = [None, Filters(category="toys"), Filters(), Filters(category="toys"), None]
    times_B = np.array([NOON, NOON, NOON + 5, NOON + DAY - 1, NOON + DAY])
    eligible = facts.eligibility(times_B, asked)
    # i5 appears at noon + 1 day: until then availability is the same, whatever the moment
    assert eligible.row_B.tolist() == [0, 1, 0, 1, 2]
    assert [mask.count for mask in eligible.masks] == [4, 3, 5]
    again = facts.eligibility(times_B[1:] - 1, asked[1:])
    assert again.masks == (eligible.masks[1], eligible.masks[0])  # the very same objects
    assert facts.mask(NOON) is eligible.masks[0]
    assert small_facts().mask(NOON) is not eligible.masks[0]


def test_kept_masks_are_bounded():
    facts = small_facts()
    masks = [facts.mask(NOON, Filters(max_price=price)) for price in range(rules.KEPT_MASKS + 1)]
    assert facts.mask(NOON, Filters(max_price=rules.KEPT_MASKS)) is masks[-1]
    assert facts.mask(NOON, Filters(max_price=0)) is not masks[0]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_masks_equal_asking_item_by_item(seed):
    rng = np.random.default_rng(seed)
    facts = random_facts(rng, items=30)
    times_B = NOON + rng.integers(-2, 4, 6) * DAY
    asked = [random_filters(rng) for _ in range(6)]
    eligible = facts.eligibility(times_B, asked)
    rows = facts.table.to_pylist()
    for request in range(6):
        expected = [passes(row, int(times_B[request]), asked[request]) for row in rows]
        assert eligible.mask_of(request).allowed_N.tolist() == expected


def test_filters_from_a_document():
    assert Filters.from_document({"brand": "acme", "max_price": 3}) == Filters(brand="acme", max_price=3)
    with pytest.raises(ValueError, match="unknown colour; expected some of category, brand, min_price, max_price"):
        Filters.from_document({"colour": "red"})


def test_all_mistakes_of_filters_are_named():
    with pytest.raises(ValueError, match=r"brand: .* got 3; min_price: .* got 'x'; max_price: .* got -1"):
        Filters.from_document({"brand": 3, "min_price": "x", "max_price": -1})
    with pytest.raises(ValueError, match=r"min_price: expected at most max_price = 1, got 2"):
        Filters(min_price=2, max_price=1)


def test_groups_number_brands_and_whole_category_paths():
    facts = small_facts()  # acme bolt acme none bolt bolt; i0 and i1 share a path, i3 to i5 another
    brand_N, category_N = facts.groups("brand"), facts.groups("category")
    assert brand_N.tolist() == [brand_N[0], brand_N[1], brand_N[0], -1, brand_N[1], brand_N[1]]
    assert category_N[0] == category_N[1] != category_N[2] != category_N[3] == category_N[5]
    assert random_facts(np.random.default_rng(0), 20).groups("category").min() == -1  # no path, or an empty one
