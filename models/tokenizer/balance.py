"""Balanced assignment: every item gets a code, no code gets more items than its capacity.

The rule: walk through all (item, code) pairs by rising distance (ties: lower item, then lower code) and assign a pair
whenever the item is still free and the code not yet full. `reference_assign` says just that. `balanced_assign` gets the
same answer by deferred acceptance: free items propose to their nearest code that would still take them, full codes
keep their nearest proposers. Both sides rank by the same pair distances, so the stable matching is unique and is the
greedy one.

Legend: `N` items, `C` codes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def capacity(items: int, codes: int, slack: float) -> int:
    """Return how many items a code may hold.

    Example:
        >>> capacity(1000, 64, 1.05)
        17
    """
    return math.ceil(slack * items / codes)


def balanced_assign(distances_NC: npt.NDArray[np.floating], capacity: int) -> npt.NDArray[np.int32]:
    """Assign each item to a code, nearest pairs first, at most `capacity` items to a code.

    Costs one pass over the matrix and a few over the rows of displaced items.

    Args:
        distances_NC: Distance of each item to each code, finite.
        capacity: Items a code may hold.

    Returns:
        The code of each item, shape `[N]`.

    Raises:
        ValueError: The codes together cannot hold all items.

    Example:
        >>> balanced_assign(np.array([[0.1, 0.9], [0.2, 0.3], [0.0, 5.0]]), capacity=2).tolist()
        [0, 1, 0]
    """
    _check(distances_NC, capacity)
    items, codes = distances_NC.shape
    held: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64) for _ in range(codes)]
    worst_distance_C = np.full(codes, np.inf, distances_NC.dtype)
    worst_item_C = np.full(codes, items)
    free = np.arange(items)
    while len(free):
        proposals = _nearest_open(distances_NC, free, worst_distance_C, worst_item_C)
        order = np.argsort(proposals, kind="stable")
        rejected = []
        for group in np.split(order, np.flatnonzero(np.diff(proposals[order])) + 1):
            code = proposals[group[0]]
            members = np.concatenate([held[code], free[group]])
            if len(members) >= capacity:
                by_distance = np.lexsort((members, distances_NC[members, code]))
                rejected.append(members[by_distance[capacity:]])
                members = members[by_distance[:capacity]]
                worst_item_C[code] = members[-1]
                worst_distance_C[code] = distances_NC[members[-1], code]
            held[code] = members
        free = np.sort(np.concatenate(rejected)) if rejected else np.empty(0, np.int64)
    assigned = np.empty(items, np.int32)
    for code, members in enumerate(held):
        assigned[members] = code
    return assigned


def reference_assign(distances_NC: npt.NDArray[np.floating], capacity: int) -> npt.NDArray[np.int32]:
    """Apply the rule itself, pair by pair: the slow truth of `balanced_assign`."""
    _check(distances_NC, capacity)
    items, codes = distances_NC.shape
    assigned = np.full(items, -1, np.int32)
    room_C = np.full(codes, capacity)
    for pair in np.argsort(distances_NC, axis=None, kind="stable"):
        item, code = divmod(int(pair), codes)
        if assigned[item] < 0 and room_C[code]:
            assigned[item] = code
            room_C[code] -= 1
    return assigned


def _nearest_open(
    distances_NC: npt.NDArray[np.floating],
    free: npt.NDArray[np.int64],
    worst_distance_C: npt.NDArray[np.floating],
    worst_item_C: npt.NDArray[np.int64],
    chunk: int = 65_536,
) -> npt.NDArray[np.int64]:
    """Return each free item's nearest code that is not full or would drop its worst item for this one."""
    nearest = np.empty(len(free), np.int64)
    for start in range(0, len(free), chunk):
        part = free[start : start + chunk]
        distances = distances_NC[part]
        wins_tie = (distances == worst_distance_C) & (part[:, None] < worst_item_C)
        distances[~((distances < worst_distance_C) | wins_tie)] = np.inf
        nearest[start : start + chunk] = distances.argmin(axis=1)
    return nearest


def _check(distances_NC: npt.NDArray[np.floating], capacity: int) -> None:
    items, codes = distances_NC.shape
    if capacity * codes < items:
        raise ValueError(
            f"capacity: expected at least {math.ceil(items / codes)} for {items} items in {codes} codes, got {capacity}"
        )
    if not np.isfinite(distances_NC).all():
        raise ValueError("distances: expected finite numbers, got NaN or infinity; check the item vectors")
