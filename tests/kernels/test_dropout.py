import numpy as np
import pytest
import torch

from kernels.dropout import Dropout, random_mask


def test_rate_scale_and_gradient() -> None:
    torch.manual_seed(0)
    layer = Dropout(0.25)
    x = torch.ones(1000, 100, requires_grad=True)
    y = layer(x)
    dropped = float((y == 0).float().mean())
    assert abs(dropped - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1e5)
    assert torch.equal(y[y != 0], torch.full_like(y[y != 0], 1 / 0.75))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_global_seed_decides_the_mask_and_evaluation_is_the_identity() -> None:
    layer, x = Dropout(0.5), torch.randn(7, 5)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_mask_is_byte_comparison(p: float) -> None:
    stream = np.random.Generator(np.random.SFC64(11))
    expected = [byte < 256 * p for byte in stream.bytes(6)]
    assert random_mask((2, 3), p, seed=11).flatten().tolist() == expected
