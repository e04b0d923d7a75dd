"""Interest: hard search by hand, and the padded form against the loops."""

import numpy as np
import pytest
import torch

from features.schemas import EVENT_KINDS
from models.genrec.data import GAP_BUCKETS
from models.ranker.batch import entries
from models.ranker.interest import NO_CATEGORY, Interest, reference_interest, search


def jagged(lengths, categories):
    return entries(np.array(lengths), np.array(categories, dtype=np.int64))


def test_entries_of_the_candidates_category_or_the_newest():
    candidates = jagged([3, 1], [7, 5, NO_CATEGORY, 7])
    history = jagged([4, 0], [7, 8, 7, NO_CATEGORY])
    found_BKH, matches_BK = search(candidates, history, recent=2)
    assert found_BKH[0].int().tolist() == [[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert matches_BK.tolist() == [[2, 0, 0], [0, 0, 0]]
    assert not found_BKH[1].any(), "no history, nothing found"


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_loops_on_random_shapes(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    requests = int(rng.integers(1, 5))
    candidates_B, history_B = rng.integers(0, 5, requests), rng.integers(0, 7, requests)
    candidates_B[0] = max(candidates_B[0], 1)
    total, entries_E = int(candidates_B.sum()), int(history_B.sum())
    candidates = jagged(candidates_B, rng.integers(-1, 3, total))
    history = jagged(history_B, rng.integers(-1, 3, entries_E))
    module = Interest(item_width=3, width=4, heads=2, recent=2)
    items_RF = torch.randn(total, 3)
    events = torch.from_numpy(rng.integers(0, len(EVENT_KINDS), entries_E))
    keys, values = module.entries(
        torch.randn(entries_E, 3), events, torch.from_numpy(rng.integers(0, GAP_BUCKETS, entries_E))
    )
    fast, fast_counts = module(items_RF, candidates, keys, values, history)
    slow, slow_counts = reference_interest(module, items_RF, candidates, keys, values, history)
    torch.testing.assert_close(fast, slow)
    assert fast_counts.tolist() == slow_counts.tolist()


def test_one_match_is_its_value():
    module = Interest(item_width=2, width=4, heads=2, recent=1)
    keys, values = module.entries(torch.randn(3, 2), torch.tensor([1, 1, 2]), torch.tensor([0, 1, 2]))
    attended, counts = module(torch.randn(1, 2), jagged([1], [6]), keys, values, jagged([3], [4, 6, 5]))
    torch.testing.assert_close(attended[0], values[1])
    assert counts.tolist() == [1]


def test_requests_without_history_give_zeros_and_finite_gradients():
    module = Interest(item_width=2, width=4, heads=2, recent=1)
    items = torch.randn(2, 2, requires_grad=True)
    keys, values = module.entries(torch.randn(1, 2), torch.tensor([1]), torch.tensor([0]))
    attended, _ = module(items, jagged([1, 1], [6, 6]), keys, values, jagged([0, 1], [6]))
    assert attended[0].tolist() == [0.0] * 4
    assert attended[1].abs().sum() > 0
    attended.sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in module.parameters())


def test_a_batch_without_any_history_is_fine():
    module = Interest(item_width=2, width=4, heads=1, recent=1)
    nothing = torch.zeros(0, dtype=torch.int64)
    keys, values = module.entries(torch.zeros(0, 2), nothing, nothing)
    attended, _ = module(torch.randn(2, 2), jagged([2], [1, 2]), keys, values, jagged([0], []))
    assert attended.tolist() == [[0.0] * 4] * 2
