"""Jagged arrays: `values` of all rows one after the other, and `offsets` that say where each row begins.

::

    rows     [7 3 3], [], [5]
    values   [7 3 3 5]
    lengths  [3 0 1]
    offsets  [0 3 3 4]        row r owns values[offsets[r]:offsets[r + 1]]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def offsets_from_lengths(lengths: npt.NDArray[np.integer]) -> IntArray:
    """Return the `len(lengths) + 1` offsets of rows with these lengths.

    Example:
        >>> offsets_from_lengths(np.array([3, 0, 1])).tolist()
        [0, 3, 3, 4]
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def concat_ranges(starts: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> IntArray:
    """Concatenate the ranges `[start, start + length)`; the index that gathers many jagged rows at once.

    Args:
        starts: First element of each range.
        lengths: Lengths, zero allowed.

    Example:
        >>> concat_ranges(np.array([5, 0, 2]), np.array([2, 0, 3])).tolist()
        [5, 6, 2, 3, 4]
    """
    offsets = offsets_from_lengths(lengths)
    shift = np.asarray(starts, dtype=np.int64) - offsets[:-1]
    return np.arange(offsets[-1], dtype=np.int64) + np.repeat(shift, lengths)


def row_numbers(lengths: npt.NDArray[np.integer]) -> IntArray:
    """Return, for each value, the number of the row that owns it.

    Example:
        >>> row_numbers(np.array([3, 0, 1])).tolist()
        [0, 0, 0, 2]
    """
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)


def columns(lengths: npt.NDArray[np.integer]) -> IntArray:
    """Return, for each value, its place inside its row.

    Example:
        >>> columns(np.array([3, 0, 1])).tolist()
        [0, 1, 2, 0]
    """
    return concat_ranges(np.zeros(len(lengths), dtype=np.int64), lengths)


def run_starts(*sorted_keys: npt.NDArray[np.generic]) -> IntArray:
    """Return where each run of equal key tuples begins, in columns that lie sorted by them.

    Example:
        >>> run_starts(np.array([4, 4, 7]), np.array([1, 2, 2])).tolist()
        [0, 1, 2]
    """
    size = len(sorted_keys[0])
    begins = np.zeros(size, dtype=bool)
    begins[:1] = True
    for column in sorted_keys:
        begins[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(begins)
