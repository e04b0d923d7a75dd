"""The beam-search step: every implementation equals the loop over beams and children, and arithmetic by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from implementations import IMPLEMENTATIONS, Kernel, kernel
from trie_cases import random_case

from kernels.allowed_ids import AllowedIds
from kernels.trie import NO_NODE, Trie
from kernels.trie_topk import reference_trie_topk


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def trie_topk(request: pytest.FixtureRequest) -> Kernel:
    return kernel("trie_topk", request.param)


SIDS_SL = np.array([[0, 1], [0, 3], [2, 0], [2, 1]])


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_reference(trie_topk: Kernel, seed: int, renormalize: bool) -> None:
    cases = 1 if trie_topk.implementation == "triton" else 10  # the interpreter is slow
    for number in range(cases):
        check_against_reference(trie_topk, 10 * seed + number, renormalize)


def check_against_reference(trie_topk: Kernel, seed: int, renormalize: bool) -> None:
    single = trie_topk.single_precision
    case = random_case(seed, torch.float32 if single else torch.float64)
    arguments = [getattr(case, field.name) for field in dataclasses.fields(case)]
    scores, nodes, parents = trie_topk(*arguments, renormalize)
    expected_scores, expected_nodes, expected_parents = reference_trie_topk(*arguments, renormalize)
    tolerance = 1e-5 if single else 1e-12
    torch.testing.assert_close(scores, expected_scores, rtol=tolerance, atol=tolerance)
    if renormalize and single:
        # Sums of another order part scores that tie in the reference, or join others: any order of these will do.
        gap_BM = (expected_scores[:, 1:] - expected_scores[:, :-1]).abs()
        clear_B = ~((gap_BM < tolerance) & expected_scores[:, 1:].isfinite()).any(dim=1)
        nodes, parents = nodes[clear_B], parents[clear_B]
        expected_nodes, expected_parents = expected_nodes[clear_B], expected_parents[clear_B]
    assert nodes.tolist() == expected_nodes.tolist()
    assert parents.tolist() == expected_parents.tolist()


def test_a_step_by_hand(trie_topk: Kernel) -> None:
    """Beam 0 holds code 0, beam 1 code 2; of the equal scores -2 the earlier beam's comes first."""
    nodes, scores = torch.tensor([[0, 1, NO_NODE]]), torch.tensor([[-1.0, 0.0, -math.inf]])
    logprobs = torch.tensor([[[-9.0, -1.0, -9.0, -3.0], [-0.5, -2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    found = trie_topk(Trie.from_sorted(SIDS_SL), 1, nodes, scores, logprobs, 5)
    assert found[0].tolist() == [[-0.5, -2.0, -2.0, -4.0, -math.inf]]
    assert found[1].tolist() == [[2, 0, 3, 1, NO_NODE]]
    assert found[2].tolist() == [[1, 0, 1, 0, 0]]


def test_a_filter_by_hand(trie_topk: Kernel) -> None:
    """The filter leaves (0, 3), (2, 0), (2, 1); of these the second request has seen (2, 1), the third all."""
    left_FS = torch.tensor([[False, True, True, True]])
    gone_BX = torch.tensor([[4, 4, 4], [3, 4, 4], [1, 2, 3]])
    allowed = AllowedIds(AllowedIds.from_bitmap(left_FS).counts_FS, torch.zeros(3, dtype=torch.int64), gone_BX)
    nodes, scores = torch.tensor([[0, 1]] * 3), torch.zeros(3, 2)
    logprobs = torch.tensor([[[-9.0, -1.0, -9.0, -3.0], [-0.5, -2.0, 0.0, 0.0]]] * 3)
    found = trie_topk(Trie.from_sorted(SIDS_SL), 1, nodes, scores, logprobs, 3, allowed)
    assert found[0].tolist() == [[-0.5, -2.0, -3.0], [-0.5, -3.0, -math.inf], [-math.inf] * 3]
    assert found[1].tolist() == [[2, 3, 1], [2, 1, NO_NODE], [NO_NODE] * 3]
    assert found[2].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_an_only_child_costs_nothing_when_renormalised(trie_topk: Kernel) -> None:
    nodes, scores = torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[-2.5]])
    found = trie_topk(
        Trie.from_sorted(np.array([[3, 0]])), 0, nodes, scores, torch.full((1, 1, 4), -7.0), 1, None, True
    )
    assert [part.tolist() for part in found] == [[[-2.5]], [[0]], [[0]]]


def test_zeros_of_both_signs_tie(trie_topk: Kernel) -> None:
    nodes, scores = torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[-0.0]])
    found = trie_topk(Trie.from_sorted(np.arange(3)[:, None]), 0, nodes, scores, torch.tensor([[[-0.0, 0.0, -0.0]]]), 3)
    assert found[1].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("k", [1, 3])
def test_ties_across_the_cut_go_to_the_smaller_code(trie_topk: Kernel, k: int) -> None:
    trie = Trie.from_sorted(np.arange(1000)[:, None])
    nodes, scores = torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1)
    found = trie_topk(trie, 0, nodes, scores, torch.full((2, 1, 1000), -4.6), k)
    assert found[1].tolist() == [list(range(k))] * 2
