"""Counts of allowed IDs against counting them one by one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trie_cases import random_allowed

from kernels.allowed_ids import reference_below


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_counts_equal_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests, leaves = int(rng.integers(1, 5)), int(rng.integers(1, 30))
    allowed = random_allowed(rng, requests, leaves)
    start_BM, end_BM = torch.from_numpy(np.sort(rng.integers(0, leaves + 1, (2, requests, 7)), axis=0))
    for dtype in (torch.int32, torch.int64):
        found = allowed.below(start_BM.to(dtype), end_BM.to(dtype))
        assert found.dtype == torch.int32
        assert torch.equal(found, reference_below(allowed, start_BM, end_BM))
