"""Cross-entropy over many classes: hand-made values, and equality with separate operations."""

from __future__ import annotations

import math

import pytest
import torch

from kernels import linear_cross_entropy as module
from kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_reference


def test_a_value_by_hand() -> None:
    """Logits (0, log 3) and (log 4, 0): the right classes have probability 3/4 and 1/5."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    classes = torch.tensor([[0.0, math.log(4)], [math.log(3), 0.0]])
    loss = linear_cross_entropy(x, classes, torch.tensor([1, 1]), torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx((3 * math.log(4 / 3) + math.log(5)) / 4)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_values_and_gradients_are_those_of_separate_operations(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    found = []
    for function in (linear_cross_entropy, linear_cross_entropy_reference):
        torch.manual_seed(0)
        x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
        classes = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
        loss = function(x, classes, torch.randint(11, (7,)), torch.tensor([1.0, 0.1, 0, 1, 2, 1, 1]).double())
        (3 * loss).backward()
        found.append((loss.detach(), x.grad, classes.grad))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow)
    assert not found[0][1][2].any()  # weight 0


def test_under_autocast_sums_stay_float32() -> None:
    torch.manual_seed(0)
    x, classes = torch.randn(600, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    target, weight = torch.randint(50, (600,)), torch.rand(600)
    expected = torch.autograd.grad(linear_cross_entropy_reference(x, classes, target, weight), (x, classes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(x, classes, target, weight)
    gradients = torch.autograd.grad(loss, (x, classes))
    assert loss.dtype == torch.float32
    for found, right in zip(gradients, expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - right).norm() < 0.02 * right.norm()


def test_an_impossible_class_costs_a_finite_loss() -> None:
    x, classes = torch.ones(1, 1), torch.tensor([[0.0], [-1e4]])
    assert torch.isfinite(linear_cross_entropy(x, classes, torch.tensor([1]), torch.ones(1)))
