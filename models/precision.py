"""The number type of matrix products, in training and in decoding."""

from __future__ import annotations

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products are of `precision`.

    Args:
        precision: `auto` (bfloat16 where the device multiplies it natively), `float32` or `bfloat16`.
        device: Where they run.
    """
    dtype = autocast_type(precision, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of matrix products, None for the weights' own; see `autocast`."""
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
