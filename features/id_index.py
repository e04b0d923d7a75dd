"""Places of ids in a fixed list of ids, found without reading the list again."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kernels.hashing import hash_strings

ABSENT = -1


class IdIndex:
    """Finds ids by their 64-bit hashes, sorted once; `pyarrow.compute.index_in` hashes the whole list at every call.

    Args:
        ids: Distinct ids.

    Example:
        >>> IdIndex(pa.array(["b", "a"])).find(pa.array(["a", "c", None, "b"])).tolist()
        [1, -1, -1, 0]
    """

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids

    def find(self, wanted: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Return the place of each wanted id, `ABSENT` where the list does not hold it."""
        values = wanted.combine_chunks() if isinstance(wanted, pa.ChunkedArray) else wanted
        hash_N, order_N = self._by_hash
        if not len(values) or not len(hash_N):
            return np.full(len(values), ABSENT, dtype=np.int64)
        if not self._distinct:
            return np.asarray(pc.fill_null(pc.index_in(values, value_set=self.ids), ABSENT), dtype=np.int64)
        place = np.searchsorted(hash_N, hash_strings(pc.fill_null(values, "")))
        found = order_N[np.minimum(place, len(hash_N) - 1)]
        same = pc.fill_null(pc.equal(self.ids.take(pa.array(found)), values), False)
        return np.where(same.to_numpy(zero_copy_only=False), found, ABSENT)

    @cached_property
    def _by_hash(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        hash_N = hash_strings(self.ids)
        order_N = np.argsort(hash_N)
        return hash_N[order_N], order_N

    @cached_property
    def _distinct(self) -> bool:
        """Whether no two ids share a hash: one list of 10^7 in 400,000 does."""
        hash_N, _ = self._by_hash
        return bool((hash_N[1:] != hash_N[:-1]).all())
