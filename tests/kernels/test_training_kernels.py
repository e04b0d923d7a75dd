"""The halves of a decoder block written by hand equal those of a few plain operations: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels.dropout import zero_
from kernels.packed_attention import PackedRows, attention_residual, attention_residual_reference
from kernels.rms_norm import rms_norm, rms_norm_reference
from kernels.swiglu import swiglu_residual, swiglu_residual_reference

EPS = 1e-6
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 8e-2}
"""Largest difference, as a share of the largest value (of 0.1 where all are smaller: one place alone has no scores)."""


def assert_twins(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor], tolerance: float
) -> None:
    """Compare outputs and the gradients of all inputs for one random gradient of the output."""
    found = []
    for function in (fast, slow):
        own = [value.clone().requires_grad_() for value in inputs]
        out = function(*own)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        found.append([out.detach(), *(value.grad for value in own)])
    for number, (mine, theirs) in enumerate(zip(*found, strict=True)):
        distance = float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(0.1))
        assert distance < tolerance, f"result {number}: {distance}"


def random_inputs(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 1) for shape in shapes]


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (40, 16)])
def test_rms_norm(shape: tuple[int, int]) -> None:
    inputs = random_inputs(0, shape, shape[1:])
    assert_twins(lambda *a: rms_norm(*a, EPS), lambda *a: rms_norm_reference(*a, EPS), inputs, 1e-5)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(("rows", "width", "inner"), [(1, 2, 1), (33, 16, 40), (64, 8, 24)])
def test_swiglu_residual(rows: int, width: int, inner: int, dropped: bool, dtype: torch.dtype) -> None:
    inputs = random_inputs(rows, (rows, width), (width,), (inner, width), (inner, width), (width, inner))
    mask = torch.rand(rows, width, generator=torch.Generator().manual_seed(1)) < 0.3 if dropped else None
    assert_twins(
        lambda *a: swiglu_residual(*a, eps=EPS, dropped_MD=mask, scale=1.3, dtype=dtype),
        lambda *a: swiglu_residual_reference(*a, eps=EPS, dropped_MD=mask, scale=1.3),
        inputs,
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("batch", "places"), [(1, 1), (5, 12)])
def test_attention_residual(
    batch: int, places: int, heads: int, kv_heads: int, dropped: bool, dtype: torch.dtype
) -> None:
    size, width = 4, 16
    generator = torch.Generator().manual_seed(places)
    angles = torch.randint(0, 20, (batch, places, 1), generator=generator) * torch.tensor([1.0, 0.1, 1.0, 0.1])
    mask = torch.rand(batch, places, places, generator=generator) < 0.5
    rows = PackedRows(cos_BTE=angles.cos(), sin_BTE=angles.sin(), mask_BTT=mask | torch.eye(places).bool())
    drop = torch.rand(batch * places, width, generator=generator) < 0.3 if dropped else None
    per_head = [(heads * size,), (kv_heads * size,), (kv_heads * size,)]
    inputs = random_inputs(
        heads,
        (batch * places, width),
        (width,),
        *(shape for (out,) in per_head for shape in ((out, width), (out,))),
        (width, heads * size),
    )
    common = {"eps": EPS, "dropped_MD": drop, "scale": 1.3}
    assert_twins(
        lambda x, norm, *w: attention_residual(x, norm, w[:6], w[6], rows.prepared(heads, kv_heads, dtype), **common),
        lambda x, norm, *w: attention_residual_reference(
            x.view(batch, places, width), norm, w[:6], w[6], rows, heads=heads, kv_heads=kv_heads, **common
        ).view(-1, width),
        inputs,
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_bits_of_dropped_elements_become_zero(dtype: torch.dtype) -> None:
    x = torch.tensor([torch.inf, -2.0, torch.nan, 3.0], dtype=dtype)
    assert zero_(x, torch.tensor([True, False, True, False])).tolist() == [0.0, -2.0, 0.0, 3.0]
