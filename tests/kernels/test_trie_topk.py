"""The beam-search step against the loop over beams and children."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trie_cases import random_case

from kernels.trie import NO_NODE, Trie
from kernels.trie_topk import reference_trie_topk, trie_topk


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_equals_the_reference(seed: int, renormalize: bool) -> None:
    case = random_case(seed)
    arguments = [getattr(case, field.name) for field in dataclasses.fields(case)]
    scores, nodes, parents = trie_topk(*arguments, renormalize)
    expected_scores, expected_nodes, expected_parents = reference_trie_topk(*arguments, renormalize)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-12, atol=1e-12)
    assert nodes.tolist() == expected_nodes.tolist()
    assert parents.tolist() == expected_parents.tolist()


def test_a_step_by_hand() -> None:
    """Beam 0 holds code 0, beam 1 code 2; of the equal scores -2 the earlier beam's comes first."""
    trie = Trie.from_sorted(np.array([[0, 1], [0, 3], [2, 0], [2, 1]]))
    nodes, scores = torch.tensor([[0, 1, NO_NODE]]), torch.tensor([[-1.0, 0.0, -math.inf]])
    logprobs = torch.tensor([[[-9.0, -1.0, -9.0, -3.0], [-0.5, -2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    found = trie_topk(trie, 1, nodes, scores, logprobs, k=5)
    assert found[0].tolist() == [[-0.5, -2.0, -2.0, -4.0, -math.inf]]
    assert found[1].tolist() == [[2, 0, 3, 1, NO_NODE]]
    assert found[2].tolist() == [[1, 0, 1, 0, 0]]


@pytest.mark.parametrize("k", [1, 3])
def test_ties_across_the_cut_go_to_the_smaller_code(k: int) -> None:
    trie = Trie.from_sorted(np.arange(100)[:, None])
    nodes, scores = torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1)
    found = trie_topk(trie, 0, nodes, scores, torch.full((2, 1, 100), -4.6), k)
    assert found[1].tolist() == [list(range(k))] * 2
