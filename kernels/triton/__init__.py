"""GPU versions of the kernels, written in Triton; nothing outside this package imports it before it sees a CUDA tensor.

Each module has the public function of its namesake one floor up, which holds the slow reference and the torch version
and comes here by itself. Without a GPU the kernels run in Triton's interpreter, on CPU tensors, if `TRITON_INTERPRET=1`
is set before Triton is first imported: the tests do so.
"""

from __future__ import annotations

import functools
import importlib.util

from torch import Tensor


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def runs_on_gpu(*tensors: Tensor) -> bool:
    """Whether Triton's version should answer: all tensors lie on a CUDA device, and Triton came with torch."""
    return all(tensor.is_cuda for tensor in tensors) and _installed()
