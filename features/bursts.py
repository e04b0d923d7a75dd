"""Bursts: pages of events that have no `request_id`.

A user's events without a longer pause than a gap (or of the same UTC day, where data have only dates) form a burst. It
is cut every `cap` items in order of first appearance into parts, each a page; a later event on an item belongs to the
part in which the item appeared first.
Legend: `R` rows (events), by user and time.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kernels.hashing import HashArray, combine_hashes, hash_integers, hex_digits
from kernels.jagged import IntArray, run_starts

DAY_MS = 86_400_000


def burst_numbers(user_R: IntArray, time_R: IntArray, gap_ms: int | None) -> IntArray:
    """Return the number of each row's burst, counted from 0; without a gap, bursts are UTC days.

    Example:
        >>> burst_numbers(np.array([7, 7, 7, 9]), np.array([0, 10, 21, 22]), 10).tolist()
        [0, 0, 1, 2]
    """
    begins = np.ones(len(user_R), dtype=np.int64)
    if gap_ms is None:
        apart = time_R[1:] // DAY_MS != time_R[:-1] // DAY_MS
    else:
        apart = time_R[1:] - time_R[:-1] > gap_ms
    begins[1:] = (user_R[1:] != user_R[:-1]) | apart
    return np.cumsum(begins) - 1


def burst_parts(burst_R: IntArray, item_R: IntArray, cap: int) -> IntArray:
    """Return the part of its burst to which each row belongs.

    Args:
        burst_R: What `burst_numbers` returns.
        item_R: Numbers of items, from 0.
        cap: Most items of a part.

    Example:
        >>> burst_parts(np.array([0, 0, 0, 0]), np.array([5, 6, 7, 5]), 2).tolist()
        [0, 0, 1, 0]
    """
    _, first, pair = np.unique(burst_R * (item_R.max(initial=0) + 1) + item_R, return_index=True, return_inverse=True)
    by_appearance = np.argsort(first, kind="stable")
    starts = run_starts(burst_R[first[by_appearance]])
    nth = np.empty(len(first), dtype=np.int64)
    nth[by_appearance] = np.arange(len(first)) - np.repeat(starts, np.diff([*starts, len(first)]))
    return nth[pair] // cap


def burst_hashes(users: HashArray, begin: IntArray, part: IntArray) -> HashArray:
    """Return what names pages made from bursts, the same in every run: user, first moment and part.

    Args:
        users: Hashes of the user ids.
        begin: Time of each burst's first event, milliseconds.
        part: Part of the burst.
    """
    return combine_hashes(users, hash_integers(begin), hash_integers(part))


def burst_ids(hashes: HashArray) -> pa.Array:
    """Return the request ids of pages made from bursts, from `burst_hashes`; they sort as the hashes do.

    Example:
        >>> burst_ids(np.array([255], np.uint64)).to_pylist()
        ['burst-00000000000000ff']
    """
    return pc.binary_join_element_wise("burst", hex_digits(hashes), "-").cast(pa.string())
