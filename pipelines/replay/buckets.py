"""Adds values of pages up by bucket of users.

Legend: `R` logged pages, `G` buckets of users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.replay.distinct import bucket_of
from pipelines.replay.rounds import Hashes


class BucketSums:
    """Which pages lie in which bucket; made once for many sums.

    Args:
        users_R: Hash of each page's user.
        buckets: How many there are.
    """

    def __init__(self, users_R: Hashes, buckets: int) -> None:
        bucket_R = bucket_of(users_R, buckets)
        self._order_R = np.argsort(bucket_R, kind="stable")
        self._present, self._starts = np.unique(bucket_R[self._order_R], return_index=True)

    def add(self, sums_G: npt.NDArray[Any], values_R: npt.NDArray[Any]) -> None:
        """Add the values of pages, of any further dimensions, to sums of the same further dimensions, in place."""
        if len(self._present):
            sums_G[self._present] += np.add.reduceat(values_R[self._order_R], self._starts, axis=0)
