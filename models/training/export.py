"""Weights as safetensors: what evaluation, release and serving load. No pickle, no TorchRec needed to read them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from models.training.processes import rank


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole state of a model on CPU, shards of tables gathered from all processes.

    Every process must call it; the first gets the state, the others an empty dictionary.
    """
    state = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for name, value in model.state_dict().items():
            whole = _gather(value) if isinstance(value, ShardedTensor) else value
            state[name] = whole.detach().to("cpu", copy=True).contiguous()
    return state if rank() == 0 else {}


def _gather(shards: ShardedTensor) -> Tensor:
    whole = torch.empty(shards.size(), dtype=shards.dtype)
    # without its type torch gathers by way of float32, which rounds large integers
    shards.gather(dst=0, out=whole if rank() == 0 else None, dtype=shards.dtype)
    return whole


def weights_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Return a state in the safetensors format."""
    return save(dict(state))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into an unsharded model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Names or shapes differ; the message lists them.
    """
    if not path.exists():
        raise FileNotFoundError(f"weights: expected a safetensors file at {path}, there is none; train the model first")
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no mapping
    own = model.state_dict()
    mistakes = [f"missing {name}" for name in own.keys() - state.keys()]
    mistakes += [f"unknown {name}" for name in state.keys() - own.keys()]
    mistakes += [
        f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(state[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if mistakes:
        raise ValueError(f"{path} does not fit the model:\n  " + "\n  ".join(sorted(mistakes)))
    model.load_state_dict(state)
