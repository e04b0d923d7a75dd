"""The extra level: a last code that numbers the items of one semantic ID, so that each item's ID is its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]


def with_extra_level(codes_NL: Codes) -> Codes:
    """Append a code that counts 0, 1, 2, ... over the items of one ID, in the order given.

    Example:
        >>> with_extra_level(np.array([[3, 1], [0, 2], [3, 1]], np.int32)).tolist()
        [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
    """
    _, id_of_item_N, sizes_S = np.unique(codes_NL, axis=0, return_inverse=True, return_counts=True)
    by_id_N = np.argsort(id_of_item_N.reshape(-1), kind="stable")
    starts_N = np.repeat(np.cumsum(sizes_S) - sizes_S, sizes_S)
    rank_N = np.empty(len(codes_NL), np.int32)
    rank_N[by_id_N] = np.arange(len(codes_NL)) - starts_N
    return np.column_stack([codes_NL, rank_N])
