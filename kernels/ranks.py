"""Sort ranks of strings: numbers that numpy can sort by in their place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kernels.jagged import IntArray


def string_ranks(values: pa.ChunkedArray | pa.Array) -> IntArray:
    """Return the rank of each string among the distinct ones (equal strings alike, null -1).

    Example:
        >>> string_ranks(pa.array(["b", "a", None, "b"])).tolist()
        [1, 0, -1, 1]
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = array.dictionary_encode()
    rank = np.empty(len(encoded.dictionary) + 1, dtype=np.int64)
    rank[np.asarray(pc.sort_indices(encoded.dictionary))] = np.arange(len(encoded.dictionary))
    rank[-1] = -1
    return rank[np.asarray(pc.fill_null(encoded.indices, len(encoded.dictionary)))]
