"""The implementations of one kernel, which pass the same tests: slow reference, torch, Triton."""

from __future__ import annotations

import dataclasses
import importlib
import os
from typing import Any

import pytest
import torch
from torch import Tensor

IMPLEMENTATIONS = [
    "reference",
    "torch",
    "triton",
    pytest.param("torch on GPU", marks=pytest.mark.gpu),
    pytest.param("triton on GPU", marks=pytest.mark.gpu),
]
"""`triton` runs in its interpreter (see `tests/conftest.py`), `triton on GPU` compiled; `torch on GPU` is the public
function, which hands over to Triton."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One implementation of the kernel `name`; takes and returns CPU tensors wherever it runs."""

    name: str
    implementation: str

    def __call__(self, *arguments: Any) -> Any:
        module = importlib.import_module(f"kernels.{'triton.' if self.is_triton else ''}{self.name}")
        function = getattr(module, f"{'reference_' if self.implementation == 'reference' else ''}{self.name}")
        return moved(function(*moved(arguments, self.device)), "cpu")

    @property
    def single_precision(self) -> bool:
        """Whether it computes in float32 only: Triton, which answers on a GPU."""
        return self.is_triton or self.device == "cuda"

    @property
    def is_triton(self) -> bool:
        return self.implementation.startswith("triton")

    @property
    def device(self) -> str:
        return "cuda" if self.implementation.endswith("GPU") else "cpu"


def kernel(name: str, implementation: str) -> Kernel:
    """Return an implementation, or skip the test where it cannot run."""
    found = Kernel(name, implementation)
    if found.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if implementation == "triton":
        pytest.importorskip("triton")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("Triton's interpreter is off where there is a GPU")
    return found


def moved(value: Any, device: str) -> Any:
    """Return tensors, and what holds some, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: moved(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value
