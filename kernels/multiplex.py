"""Rows of one table shared by many features: each feature's name salts a hash of its own, for each probe another one.

`row = floor(h * rows / 2^64)` with `h = hash_integers(value's hash, salt)`, the salt a hash of the feature's name under
the probe's number (Coleman et al., Unified Embedding, NeurIPS 2023, arXiv 2305.12102; the reduction is Lemire's, Fast
random integer generation in an interval, 2019). A salt depends on nothing but name and probe: adding, removing or
reordering features leaves every other feature's rows where they are. Golden values in the tests pin it.

Legend: `V` values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.hashing import HashArray, hash_integers, reference_hash

MOST_ROWS = 1 << 32
_HALF = np.uint64(32)
_LOW = np.uint64((1 << 32) - 1)


def feature_salt(name: str, probe: int = 0) -> int:
    """Return the salt of a feature's probe, 0 <= salt < 2**64.

    Raises:
        ValueError: The name is empty, or the probe negative.

    Example:
        >>> feature_salt("item_id") == feature_salt("item_id", 1)
        False
    """
    if not name or probe < 0:
        raise ValueError(f"expected a feature's name and a probe from 0, got {name!r} and {probe}")
    return reference_hash(name.encode(), probe)


def multiplex_rows(name: str, hashes: HashArray, rows: int, probe: int = 0) -> npt.NDArray[np.int64]:
    """Return the table row of each value of a feature.

    Args:
        name: The feature's name.
        hashes: `V` hashes of values (`kernels.hashing`), uint64.
        rows: Rows of the shared table, 1 to 2**32.
        probe: Number of the probe; each gives rows of its own, independent of the others'.

    Returns:
        `V` rows from 0 to `rows - 1`, int64.

    Raises:
        ValueError: `rows` is out of range, the name is empty, or the probe negative.

    Example:
        >>> multiplex_rows("color", np.array([1, 2, 1], dtype=np.uint64), rows=1000).tolist()
        [774, 496, 774]
    """
    if not 1 <= rows <= MOST_ROWS:
        raise ValueError(f"rows: expected 1 to {MOST_ROWS}, got {rows}")
    mixed = hash_integers(hashes.view(np.int64), feature_salt(name, probe))
    wide = np.uint64(rows)
    carried = (mixed & _LOW) * wide >> _HALF
    return ((mixed >> _HALF) * wide + carried >> _HALF).astype(np.int64)


def reference_row(name: str, value_hash: int, rows: int, probe: int = 0) -> int:
    """Return the same row as `multiplex_rows`, one value at a time in plain Python."""
    mixed = reference_hash(value_hash.to_bytes(8, "little"), feature_salt(name, probe))
    return mixed * rows >> 64
