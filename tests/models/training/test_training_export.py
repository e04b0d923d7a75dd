import pytest
import torch
from torch import nn

from models.training.config import TrainConfig
from models.training.distributed import process_group, shard
from models.training.export import full_state, load_weights, weights_bytes


def test_weights_of_sharded_tables_load_into_plain_ones(worker, tmp_path):
    model, plain = worker.sharded(), worker.plain()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.zeros_(plain.head.weight)
    with process_group(worker.CPU):
        shard(model, TrainConfig(table_learning_rate=0.1, row_wise_from_rows=10), worker.CPU)
        (tmp_path / "weights.safetensors").write_bytes(weights_bytes(full_state(model)))
    load_weights(plain, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in plain.state_dict().items())


def test_tied_weights_survive(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    (tmp_path / "weights.safetensors").write_bytes(weights_bytes(full_state(model)))
    expected = model["a"].weight.clone()
    nn.init.zeros_(model["a"].weight)
    load_weights(model, tmp_path / "weights.safetensors")
    assert torch.equal(model["b"].weight, expected)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights_bytes({"weight": torch.zeros(2, 3), "scale": torch.zeros(1)}))
    with pytest.raises(ValueError, match="missing bias") as caught:
        load_weights(nn.Linear(2, 2), path)
    assert "unknown scale" in str(caught.value)
    assert "weight: expected shape (2, 2), got (2, 3)" in str(caught.value)


def test_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a safetensors file at .*none\.safetensors"):
        load_weights(nn.Linear(2, 2), tmp_path / "none.safetensors")
