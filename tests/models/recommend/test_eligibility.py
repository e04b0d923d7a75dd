from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recommend_cases import batch

from models.recommend.eligibility import Eligibility, ItemMask, PerMask, groups


def test_taken_requests_keep_their_masks_and_drop_the_others():
    eligible = Eligibility.of([[True, False], [False, True], [True, True]], [2, 0, 2, 1])
    taken = eligible.take(np.array([3, 0, 2]))
    assert taken.row_B.tolist() == [0, 1, 1]
    assert taken.masks == (eligible.masks[1], eligible.masks[2])
    requests = dataclasses.replace(batch([[], [], [], []]), eligible=eligible).take(np.array([1]))
    assert requests.eligible is not None
    assert requests.eligible.masks == (eligible.masks[0],)
    assert len(eligible.take(np.zeros(0, np.int64)).masks) == 0


def test_groups_name_each_mask_with_its_requests():
    eligible = Eligibility.of([[True], [False]], [1, 0, 1])
    found = [(mask, rows.tolist()) for mask, rows in groups(eligible, 3)]
    assert found == [(eligible.masks[0], [1]), (eligible.masks[1], [0, 2])]
    assert [(mask, rows.tolist()) for mask, rows in groups(None, 2)] == [(None, [0, 1])]


@pytest.mark.integration
def test_what_is_made_of_a_mask_is_made_once_and_goes_with_it():
    made = []
    count = PerMask(lambda mask: made.append(mask.count) or np.array([mask.count]))
    mask = ItemMask(np.array([True, False, True]))
    value = weakref.ref(count(mask))
    assert count(mask) is value()
    assert made == [2]
    del mask
    gc.collect()
    assert value() is None


def test_a_mask_is_never_changed():
    with pytest.raises(ValueError, match="read-only"):
        ItemMask(np.ones(2, dtype=bool)).allowed_N[0] = False


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_permitted_are_pairs_that_pass_and_are_not_excluded(seed):
    rng = np.random.default_rng(seed)
    excluded = [rng.integers(0, 8, rng.integers(0, 5)).tolist() for _ in range(4)]
    masks_FN, row_B = rng.random((3, 8)) < 0.6, rng.integers(0, 3, 4)
    requests = dataclasses.replace(batch([[]] * 4, excluded=excluded), eligible=Eligibility.of(masks_FN, row_B))
    more_rows, more_items = rng.integers(0, 4, 6), rng.integers(0, 8, 6)
    rows, items = np.repeat(np.arange(4), 8), np.tile(np.arange(8), 4)
    permitted = requests.excluding(more_rows, more_items).permits(rows, items)
    further = set(zip(more_rows.tolist(), more_items.tolist(), strict=True))
    for row, item, found in zip(rows.tolist(), items.tolist(), permitted.tolist(), strict=True):
        assert found == (masks_FN[row_B[row], item] and item not in excluded[row] and (row, item) not in further)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"masks: expected one length, that of the catalogue, got \[1, 2\]"):
        Eligibility(masks=(ItemMask(np.ones(1, bool)), ItemMask(np.ones(2, bool))), row_B=np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="row_B: expected numbers of 1 masks, got 0 to 1"):
        Eligibility.of([[True]], [0, 1])
    with pytest.raises(ValueError, match="eligible: expected one mask per request, 2, got 1"):
        dataclasses.replace(batch([[], []]), eligible=Eligibility.of([[True]], [0]))
