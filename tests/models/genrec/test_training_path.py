"""The path that training takes on CPU equals the plain modules, dropout included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_sequences

from models.genrec.batch import PackedBatch, pack_windows
from models.genrec.data import draw_responses, make_windows, sequences_from_table
from models.genrec.loss import page_loss
from models.genrec.model import GenRec


def case(seed: int, **changes: object) -> tuple[GenRec, PackedBatch]:
    rng = np.random.default_rng(seed)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, seed, **changes)
    table = sequences_from_table(make_sequences(rng, catalogue), catalogue, model.config)
    data = draw_responses(table, model.config, rng)
    windows = make_windows(data, model.config, 3)
    return model.train(), pack_windows(data, windows, np.arange(len(windows)), catalogue, model.config)


def plain_loss(model: GenRec, batch: PackedBatch) -> torch.Tensor:
    return page_loss(model, model.hidden(batch)[0], batch)[0]


def gradients(model: GenRec, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.to_dense().clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_equal_the_modules_in_float32(seed: int, dropout: float, kv_heads: int) -> None:
    model, batch = case(seed, dropout=dropout, kv_heads=kv_heads)
    torch.manual_seed(seed)
    loss, _ = model(batch)
    torch.manual_seed(seed)
    expected = plain_loss(model, batch)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    found = gradients(model, loss)
    for name, gradient in gradients(model, expected).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_bfloat16_is_as_near_to_float32_as_the_modules_are() -> None:
    errors = np.zeros(2)
    for seed in range(6):
        model, batch = case(seed)
        exact = gradients(model, plain_loss(model, batch))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model(batch)[0], plain_loss(model, batch)
        for path, loss in enumerate(losses):
            found = gradients(model, loss)
            errors[path] += sum(float((found[name] - exact[name]).square().sum()) for name in exact) ** 0.5
    assert errors[0] < 1.1 * errors[1]
