"""The shared-prefix forward against one row per response, and both against scoring through the decoding cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from models.alignment.shared_prefix import naive_response_logprobs, response_logprobs
from models.genrec.batch import PackedBatch, pack_prompts
from models.genrec.decode import exhaustive_scores
from models.genrec.model import GenRec

SHAPES: dict[str, dict[str, object]] = {
    "plain": {},
    "unmerged": {"merge_history": False},
    "no item table": {"item_table": False},
    "untied": {"tie_embeddings": False},
    "one key/value head": {"kv_heads": 1},
    "user prefix": {"user_prefix": 5},
}


def make_case(
    seed: int, responses: int, lengths: list[int], codes: tuple[int, ...] = (4, 5, 3), **shape: object
) -> tuple[GenRec, PackedBatch, torch.Tensor]:
    rng = np.random.default_rng(seed)
    catalogue = make_catalogue(rng, codes=codes)
    model = make_model(catalogue, seed=seed, **shape)
    users = model.config.user_prefix
    vectors_BU = rng.normal(size=(len(lengths), users)).astype(np.float32) if users else None
    prompts = pack_prompts(make_requests(rng, catalogue, lengths), catalogue, model.config, vectors_BU)
    codes_BRL = np.stack([rng.integers(0, size, (len(lengths), responses)) for size in codes], axis=-1)
    return model, prompts, torch.from_numpy(codes_BRL)


def in_double(model: GenRec, prompts: PackedBatch) -> tuple[GenRec, PackedBatch]:
    prompts_64 = PackedBatch(
        **{name: part.double() if part.is_floating_point() else part for name, part in vars(prompts).items()}
    )
    return model.double(), prompts_64


def assert_same_values_and_gradients(model: GenRec, prompts: PackedBatch, codes_BRL: torch.Tensor) -> None:
    weight_BRL = torch.randn(codes_BRL.shape, dtype=torch.float64)
    found = []
    for function in (response_logprobs, naive_response_logprobs):
        model.zero_grad()
        values_BRL = function(model, prompts, codes_BRL)
        (values_BRL * weight_BRL).sum().backward()
        gradients = {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}
        found.append((values_BRL.detach(), gradients))
    (fast, fast_gradients), (slow, slow_gradients) = found
    assert fast.dtype == torch.float64
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)  # rotations are float32 in both
    assert fast_gradients.keys() == slow_gradients.keys()
    for name, gradient in slow_gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_values_and_gradients_equal_one_row_per_response(shape: dict[str, object]) -> None:
    model, prompts, codes_BRL = make_case(1, 5, [3, 0, 6, 1], **shape)
    codes_BRL[:, 3] = codes_BRL[:, 1]  # the same response twice
    assert_same_values_and_gradients(*in_double(model, prompts), codes_BRL)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    responses=st.integers(1, 6),
    lengths=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    codes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    merge=st.booleans(),
)
def test_random_shapes(seed: int, responses: int, lengths: list[int], codes: list[int], merge: bool) -> None:
    model, prompts, codes_BRL = make_case(seed, responses, lengths, tuple(codes), merge_history=merge)
    assert_same_values_and_gradients(*in_double(model, prompts), codes_BRL)


@pytest.mark.parametrize("merge", [True, False])
def test_equal_scoring_through_the_decoding_cache(merge: bool) -> None:
    model, prompts, codes_BRL = make_case(0, 6, [3, 0, 5], merge_history=merge)
    same_BRL = codes_BRL[:1].expand(3, -1, -1)
    expected_BR = exhaustive_scores(model, prompts, same_BRL[0])
    for function in (response_logprobs, naive_response_logprobs):
        torch.testing.assert_close(function(model, prompts, same_BRL).sum(dim=-1).detach(), expected_BR)


def test_all_codes_of_a_level_have_probability_one_together() -> None:
    model, prompts, _ = make_case(3, 1, [4], codes=(3,))
    logprobs_BRL = response_logprobs(model, prompts, torch.arange(3).view(1, 3, 1))
    assert logprobs_BRL.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_dropout_trains_every_place_and_bfloat16_stays_near() -> None:
    model, prompts, codes_BRL = make_case(4, 3, [2, 4], dropout=0.3)
    quiet = response_logprobs(model, prompts, codes_BRL)
    model.train()
    first, second = (response_logprobs(model, prompts, codes_BRL) for _ in range(2))
    assert bool((first != second).any(dim=0).all())
    first.sum().backward()
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = response_logprobs(model, prompts, codes_BRL)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, quiet, rtol=0.1, atol=0.1)


def test_prompts_and_codes_that_do_not_belong_together() -> None:
    model, prompts, codes_BRL = make_case(5, 2, [1, 2])
    with pytest.raises(ValueError, match=r"expected shape \[2, R >= 1, 3\], got \[1, 2, 3\]"):
        response_logprobs(model, prompts, codes_BRL[:1])
    with pytest.raises(ValueError, match=r"expected shape \[2, R >= 1, 3\], got \[2, 2, 2\]"):
        naive_response_logprobs(model, prompts, codes_BRL[..., :2])
