import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.two_tower.frequency import StreamingFrequency


class ReferenceFrequency:
    """The estimator one item at a time, in plain Python."""

    def __init__(self, bucket_MN, rate):
        self.bucket_MN, self.rate, self.step = bucket_MN, rate, 0
        self.last, self.gap, self.weight = {}, {}, {}

    def update(self, items):
        self.step += 1
        for item in items:
            for function, bucket_N in enumerate(self.bucket_MN):
                place = function, bucket_N[item]
                gap = self.step - self.last.get(place, 0)
                self.gap[place] = (1 - self.rate) * self.gap.get(place, 0.0) + self.rate * gap
                self.weight[place] = (1 - self.rate) * self.weight.get(place, 0.0) + self.rate
                self.last[place] = self.step

    def probability(self, item):
        places = [(function, bucket_N[item]) for function, bucket_N in enumerate(self.bucket_MN)]
        if any(place not in self.gap for place in places):
            return 0.0
        return min(1.0, 1 / max(self.gap[place] / self.weight[place] for place in places))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 12))
def test_fast_equals_one_item_at_a_time_with_collisions(data, hashes, buckets):
    batches = data.draw(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=8))
    fast = StreamingFrequency(items=10, hashes=hashes, buckets=buckets, rate=0.3)
    slow = ReferenceFrequency(fast.bucket_MN.tolist(), rate=0.3)
    for batch in batches:
        fast.update(torch.tensor(sorted(batch)))
        slow.update(sorted(batch))
    expected = [slow.probability(item) for item in range(10)]
    assert fast(torch.arange(10)).tolist() == pytest.approx(expected, rel=1e-5)


def test_first_estimate_is_the_first_gap():
    frequency = StreamingFrequency(items=3, hashes=2, buckets=1_000, rate=0.01)
    for batch in ([0], [0], [0, 1]):
        frequency.update(torch.tensor(batch))
    # item 1 was first met at step 3; item 2 never
    assert frequency(torch.arange(3)).tolist() == pytest.approx([1, 1 / 3, 0])


def _error(hashes: int, buckets: int) -> float:
    """Mean relative error when item j of 60 is in each batch with probability 1 / (2 + j)."""
    truth = 1 / (2 + np.arange(60))
    rng = np.random.default_rng(0)
    frequency = StreamingFrequency(items=60, hashes=hashes, buckets=buckets, rate=0.02)
    for _ in range(1_500):
        batch = np.flatnonzero(rng.random(60) < truth)
        frequency.update(torch.from_numpy(batch))
    return float(np.mean(np.abs(frequency(torch.arange(60)).numpy() - truth) / truth))


def test_finds_planted_probabilities():
    assert _error(hashes=1, buckets=100_000) < 0.15


def test_more_hash_functions_of_the_same_total_memory_err_less_where_items_collide():
    assert _error(hashes=4, buckets=60) < 0.6 * _error(hashes=1, buckets=240)
