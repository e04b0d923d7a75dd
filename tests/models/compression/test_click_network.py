"""The click model: lookups by hand, equal networks above every table, training that learns and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.compression.config import METHODS, QUOTIENT_REMAINDER, ClickConfig
from models.compression.layouts import Field, Layout, build_layout
from models.compression.network import ClickNetwork, TableEmbeddings
from models.compression.training import PlacedPart, fit

USER = Field(name="user", values_V=np.arange(100, 140, dtype=np.uint64))
ITEM = Field(name="item", values_V=np.arange(20, dtype=np.uint64))
CONFIG = ClickConfig(width=4, hidden=(8,), batch_size=128, learning_rate=0.01, max_epochs=12)


def laid_out(method: str, rows: int = 62) -> Layout:
    return build_layout(method, [USER, ITEM], width=4, budget_bytes=rows * 16, exact_values=3, probes=2)


def planted(layout: Layout, seed: int, rows: int = 1500) -> PlacedPart:
    """Users like items of their own parity, nine times of ten."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(100, 140, rows), rng.integers(0, 20, rows)
    like = (user % 2 == item % 2) ^ (rng.random(rows) < 0.1)
    columns = {"user": user.astype(np.uint64), "item": item.astype(np.uint64)}
    return PlacedPart(
        rows_EFK=torch.from_numpy(layout.place(columns)), label_E=torch.from_numpy(like.astype(np.float32))
    )


def test_products_by_hand():
    layout = laid_out(QUOTIENT_REMAINDER)
    embeddings = TableEmbeddings(layout)
    with torch.no_grad():
        embeddings.table[0], embeddings.table[1] = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 0, -1, 1])
    rows = torch.tensor([[[0, 1], [1, layout.rows]]])
    assert embeddings(rows).tolist() == [[2, 0, -3, 4, 2, 0, -1, 1]]


@pytest.mark.parametrize("method", METHODS)
def test_tables_start_small_and_factors_around_one(method):
    layout = laid_out(method)
    table = TableEmbeddings(layout).table.detach()
    assert table[: layout.first_factor].abs().max() <= 0.05
    assert ((table[layout.first_factor :] - 1).abs() <= 0.05001).all()


@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_those_of_the_parameters_and_the_rest_is_the_same(method):
    layout = laid_out(method)
    torch.manual_seed(5)
    network = ClickNetwork(layout, width=4, cross_layers=1, hidden=(8,))
    assert network.embeddings.bytes == layout.bytes <= 62 * 16
    rest = {name: value.sum().item() for name, value in network.named_parameters() if "embeddings" not in name}
    torch.manual_seed(5)
    other = ClickNetwork(laid_out("collisionless"), width=4, cross_layers=1, hidden=(8,))
    assert rest == {name: value.sum().item() for name, value in other.named_parameters() if "embeddings" not in name}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_what_is_planted(method):
    layout = laid_out(method, rows=1000)
    train, validation = planted(layout, 1), planted(layout, 2, 500)
    fitted = fit(layout, train, validation, CONFIG, seed=3)
    assert fitted.validation_log_loss < 0.55 < np.log(2)
    predicted = torch.from_numpy(fitted.probabilities(validation)).float()
    again = torch.nn.functional.binary_cross_entropy(predicted, validation.label_E)
    assert float(again) == pytest.approx(fitted.validation_log_loss, abs=1e-5)


def test_equal_seeds_give_equal_models():
    layout = laid_out("multiplexed")
    train, validation = planted(layout, 1, 400), planted(layout, 2, 100)
    runs = [fit(layout, train, validation, ClickConfig(width=4, max_epochs=2), seed=seed) for seed in (3, 3, 4)]
    assert runs[0].validation_log_loss == runs[1].validation_log_loss != runs[2].validation_log_loss


def test_the_global_stream_is_left_alone():
    layout = laid_out("multiplexed")
    part = planted(layout, 1, 100)
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    fit(layout, part, part, ClickConfig(width=4, max_epochs=1), seed=3)
    assert torch.rand(1) == expected


def test_mistakes_are_told_together():
    with pytest.raises(
        ValueError, match=r"width: expected at least 1, got 0; hidden: .*got \(0,\); learning_rate: .*got -1"
    ):
        ClickConfig(width=0, hidden=(0,), learning_rate=-1)
