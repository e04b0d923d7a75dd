"""DCN-V2's cross network: two layers by hand, the degree of its polynomial, gradients."""

from __future__ import annotations

import pytest
import torch

from models.ranker.dcn import CrossNetwork


def test_two_layers_by_hand():
    network = CrossNetwork(width=2, layers=2)
    first, second = network.layers
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        first.bias.copy_(torch.tensor([0.5, 1.0]))
        second.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        second.bias.copy_(torch.tensor([1.0, 0.0]))
    # x1 = [1, 3] * ([1 + 6, -3] + [0.5, 1]) + [1, 3] = [8.5, -3]; x2 = [1, 3] * ([-3, 8.5] + [1, 0]) + x1
    crossed = network(torch.tensor([[1.0, 3.0]]))
    assert crossed.tolist() == [[1 * (-3 + 1) + 8.5, 3 * 8.5 - 3]]


def test_without_bias_one_layer_is_a_square_and_the_input():
    network = CrossNetwork(width=4, layers=1)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    squares = network(2 * x) - 2 * x
    assert torch.allclose(squares, 4 * (network(x) - x), atol=1e-5)


def test_every_parameter_gets_a_gradient():
    network = CrossNetwork(width=3, layers=2)
    network(torch.ones(2, 3)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        CrossNetwork(width=0, layers=2)
