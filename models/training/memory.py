"""Memory of a training process: what a step frees, the next one takes again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `mallopt` options (malloc.h)."""
LARGEST_MMAP_THRESHOLD = 32 << 20
"""The largest that glibc takes on 64-bit machines, in bytes."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GiB, instead of handing it back; whether that was possible.

    A training step on CPU allocates and frees tensors of some megabytes hundreds of times. By default glibc returns
    them to the system, which then has to hand out, and zero, every page anew: a tenth to a fifth of a step. Other C
    libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
