"""Shares of ids, drawn by a hash: who belongs to one stays in it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from kernels.hashing import hash_strings


def in_share(ids: Sequence[str], share: float, salt: str) -> list[bool]:
    """Return which ids belong to a share of all.

    Args:
        ids: Of users, or of requests.
        share: 0 to 1.
        salt: Another one draws others, whatever drew those before.

    Example:
        >>> in_share(["ann"], 1.0, "spring"), in_share(["ann"], 0.0, "spring")
        ([True], [False])
    """
    hashes = hash_strings(pa.array([f"{salt}\x1f{one}" for one in ids], pa.string()))
    return ((hashes >> 11) * 2.0**-53 < share).tolist()
