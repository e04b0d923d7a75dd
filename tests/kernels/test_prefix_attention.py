"""Attention of beams to a shared prompt: every implementation equals the loop over queries, and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from implementations import IMPLEMENTATIONS, Kernel, kernel
from torch import Tensor

from kernels.prefix_attention import prefix_attention as public
from kernels.prefix_attention import reference_prefix_attention


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def prefix_attention(request: pytest.FixtureRequest) -> Kernel:
    return kernel("prefix_attention", request.param)


def random_arguments(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Grouped heads, one beam and many, prompts of all lengths with rubbish behind their end."""
    rng = np.random.default_rng(seed)
    batch, groups, per_group, beams = (int(rng.integers(1, most)) for most in (4, 4, 4, 8))
    places, own, size = int(rng.integers(1, 20)), int(rng.integers(1, 4)), 2 * int(rng.integers(1, 9))
    lengths_B = torch.from_numpy(rng.integers(0, places + 1, batch))
    shapes = (
        (batch, groups * per_group, beams, size),
        (batch, groups, places, size),
        (batch, groups, places, size),
        (batch, groups, beams, own, size),
        (batch, groups, beams, own, size),
    )
    q, *others = (torch.from_numpy(rng.normal(size=shape)).to(dtype) for shape in shapes)
    return q, *others[:2], lengths_B, *others[2:]


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_reference(prefix_attention: Kernel, seed: int) -> None:
    arguments = random_arguments(seed)
    torch.testing.assert_close(prefix_attention(*arguments), reference_prefix_attention(*arguments))


@pytest.mark.parametrize("seed", range(3))
def test_sums_of_16_bit_numbers_are_float32(prefix_attention: Kernel, seed: int) -> None:
    """One rounding of scores and weights to 8 bits of mantissa, and no more; numpy, hence Triton's interpreter, has no
    bfloat16."""
    dtype = torch.float16 if prefix_attention.implementation == "triton" else torch.bfloat16
    arguments = random_arguments(seed, dtype)
    found = prefix_attention(*arguments)
    assert found.dtype == dtype
    exact = reference_prefix_attention(*(part.float() if part.is_floating_point() else part for part in arguments))
    torch.testing.assert_close(found.float(), exact, rtol=0.03, atol=0.03)


def test_more_rows_and_places_than_a_block(prefix_attention: Kernel) -> None:
    """A whole prompt, one cut inside its second block and none; keys that are not contiguous."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randn(3, 70, 2, 2, 20, generator=generator).transpose(
        1, 3
    )  # [B, G, 2, T, E] in memory of [B, T, ...]
    own = torch.randn(2, 3, 2, 9, 2, 20, generator=generator)
    q = torch.randn(3, 8, 9, 20, generator=generator)
    arguments = (q, prompt[:, :, 0], prompt[:, :, 1], torch.tensor([70, 41, 0]), own[0], own[1])
    torch.testing.assert_close(prefix_attention(*arguments), reference_prefix_attention(*arguments))


def test_one_prompt_place_and_one_own_place(prefix_attention: Kernel) -> None:
    """Scores log 3 and 0: three quarters of the prompt's value and a quarter of the own one."""
    q = torch.ones(1, 1, 1, 4)
    prompt_k = torch.full((1, 1, 2, 4), math.log(3) / 2)
    prompt_v = torch.tensor([[[[8.0] * 4, [1e9] * 4]]])
    own = torch.zeros(1, 1, 1, 1, 4)
    found = prefix_attention(q, prompt_k, prompt_v, torch.tensor([1]), own, own)
    torch.testing.assert_close(found, torch.full((1, 1, 1, 4), 6.0))


def test_gradients_equal_the_reference() -> None:
    arguments = random_arguments(5, torch.float64)
    gradients = []
    for function in (public, reference_prefix_attention):
        leaves = [part.clone().requires_grad_(part.is_floating_point()) for part in arguments]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        gradients.append(torch.autograd.grad(function(*leaves).sin().sum(), wanted))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
