"""Balanced assignment: every item gets a code, no code gets more items than its capacity, the total distance is small.

Giving full codes' leftovers whatever is free would put them far from their centroid, and all far items look alike to
the next level, which makes them collide. An auction (Bertsekas and Castañón, 1989, "similar objects") moves many items
a little instead of a few items far: free items bid for the code that is cheapest for them (distance + price), bidding
the amount by which it beats their second choice plus `epsilon`; a code keeps its highest bids, and the lowest kept bid
is its price once it is full. The total distance ends within `N x epsilon` of the optimum that `reference_assign` finds.

Legend: `N` items, `C` codes, `F` items that are free in a round.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

EPSILON = 0.05
"""Smallest raise of a bid, in mean distances. Smaller is nearer to the optimum and takes more rounds; in practice the
auction ends far nearer than its bound, and codes made with 0.1, 0.05 and 0.02 are equally good."""


def capacity(items: int, codes: int, slack: float) -> int:
    """Return how many items a code may hold.

    Example:
        >>> capacity(1000, 64, 1.05)
        17
    """
    return math.ceil(slack * items / codes)


def balanced_assign(
    distances_NC: npt.NDArray[np.floating], capacity: int, epsilon: float = EPSILON
) -> npt.NDArray[np.int32]:
    """Assign each item to a code, at most `capacity` items to a code, at a total distance close to the least.

    Deterministic: ties between codes go to the lower code, between bids to the lower item. The matrix is held in
    memory: 1 GB of float32 per million items and 256 codes.

    Args:
        distances_NC: Distance of each item to each code, finite.
        capacity: Items a code may hold.
        epsilon: Smallest raise of a bid, in mean distances.

    Returns:
        The code of each item, shape `[N]`.

    Raises:
        ValueError: The codes together cannot hold all items, or a distance is not finite.

    Example:
        >>> balanced_assign(np.array([[0.1, 0.9], [0.2, 0.3], [0.0, 5.0]]), capacity=2).tolist()
        [0, 1, 0]
    """
    _check(distances_NC, capacity)
    items, codes = distances_NC.shape
    held: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)] * codes
    bid_N, price_C = np.zeros(items), np.zeros(codes)
    # where all distances are 0 any raise does, but without one the auction would not end
    raise_by = epsilon * (float(distances_NC.sum(dtype=np.float64)) / max(distances_NC.size, 1) or 1.0)
    free_F = np.arange(items)
    while len(free_F):
        chosen_F, advantage_F = _choices(distances_NC, free_F, price_C)
        bid_N[free_F] = price_C[chosen_F] + advantage_F + raise_by
        by_code = np.argsort(chosen_F, kind="stable")
        rejected = [np.empty(0, np.int64)]
        for group in np.split(by_code, np.flatnonzero(np.diff(chosen_F[by_code])) + 1):
            code = chosen_F[group[0]]
            members = np.concatenate([held[code], free_F[group]])
            if len(members) >= capacity:
                highest_first = np.lexsort((members, -bid_N[members]))
                rejected.append(members[highest_first[capacity:]])
                members = members[highest_first[:capacity]]
                price_C[code] = bid_N[members[-1]]
            held[code] = members
        free_F = np.sort(np.concatenate(rejected))
    assigned_N = np.empty(items, np.int32)
    for code, members in enumerate(held):
        assigned_N[members] = code
    return assigned_N


def reference_assign(distances_NC: npt.NDArray[np.floating], capacity: int) -> npt.NDArray[np.int32]:
    """Return an assignment of least total distance, each code split into `capacity` places: the slow truth."""
    from scipy.optimize import linear_sum_assignment  # half a second which nobody needs who only reads codes

    _check(distances_NC, capacity)
    _, places_N = linear_sum_assignment(np.repeat(distances_NC, capacity, axis=1))
    return np.asarray(places_N // capacity, np.int32)


def _choices(
    distances_NC: npt.NDArray[np.floating], free_F: npt.NDArray[np.int64], price_C: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return each free item's cheapest code and by how much it beats the second cheapest."""
    chosen_F, advantage_F = np.empty(len(free_F), np.int64), np.empty(len(free_F))
    for start in range(0, len(free_F), _CHUNK):
        part = slice(start, start + _CHUNK)
        cost = distances_NC[free_F[part]] + price_C
        rows, best = np.arange(len(cost)), cost.argmin(axis=1)
        cheapest = cost[rows, best]
        cost[rows, best] = np.inf
        chosen_F[part], advantage_F[part] = best, cost.min(axis=1) - cheapest
    return chosen_F, advantage_F


def _check(distances_NC: npt.NDArray[np.floating], capacity: int) -> None:
    items, codes = distances_NC.shape
    if capacity * codes < items:
        raise ValueError(
            f"capacity: expected at least {math.ceil(items / codes)} for {items} items in {codes} codes, got {capacity}"
        )
    if not np.isfinite(distances_NC).all():
        raise ValueError("distances: expected finite numbers, got NaN or infinity; check the item vectors")


_CHUNK = 16_384
