"""What a request's user thinks of a candidate: numbers of a (request, item) pair, from what is known of both.

Legend: `B` requests, `N` items, `R` pairs, `V` values of the user, `W` values of the items of all pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.columns import Columns, IdColumn
from features.definitions import USER, features_of
from features.events import PRICE
from kernels.hashing import hash_integers
from kernels.jagged import row_numbers
from models.inputs.items import LOG_PRICE

CROSS = "cross."
Ints = npt.NDArray[np.int64]


def pair_columns(requests: Columns, items: Columns, request_R: Ints, item_R: Ints) -> Columns:
    """Return the cross features of pairs.

    A user feature of kind `weights` with `cross` = an item column gives `cross.<name>`, the sum of the user's weights
    of the item's values in that column, 0 without any. One with `cross` = `price` holds a price the user is used to
    and gives log((1 + item's price) / (1 + that price)), nan where either is unknown.

    Args:
        requests: `B` rows with the user features.
        items: `N` rows of `item_columns`.
        request_R: The request of each pair.
        item_R: Its item.
    """
    numbers = {}
    for feature in features_of(USER):
        if feature.cross is None:
            continue
        if feature.cross == PRICE:
            usual_B = requests.numbers.get(feature.name)
            if usual_B is not None:
                numbers[CROSS + feature.name] = items.numbers[LOG_PRICE][item_R] - np.log1p(usual_B)[request_R]
        elif feature.name in requests.ids:
            numbers[CROSS + feature.name] = affinity(
                requests.ids[feature.name], items.ids[feature.cross], request_R, item_R
            )
    return Columns(rows=len(request_R), numbers=numbers)


def affinity(user: IdColumn, item: IdColumn, request_R: Ints, item_R: Ints) -> npt.NDArray[np.float32]:
    """Return the sum of a user's weights of an item's values, for each pair; float32 `[R]`.

    Example:
        >>> taste = IdColumn(hashes=np.array([5, 6], np.uint64), offsets=np.array([0, 2]), weights=np.float32([0.5, 2]))
        >>> things = IdColumn(hashes=np.array([6, 5, 7], np.uint64), offsets=np.array([0, 2, 3]))
        >>> affinity(taste, things, np.array([0, 0]), np.array([0, 1])).tolist()
        [2.5, 0.0]
    """
    values = item.take(item_R)
    pair_W = row_numbers(np.diff(values.offsets))
    key_V = _keys(row_numbers(np.diff(user.offsets)), user.hashes)
    if not len(key_V) or not len(pair_W):
        return np.zeros(len(request_R), np.float32)
    order = np.argsort(key_V, kind="stable")
    key_W = _keys(request_R[pair_W], values.hashes)
    place_W = np.minimum(np.searchsorted(key_V, key_W, sorter=order), len(order) - 1)
    held_W = order[place_W]
    weight_V = np.ones(len(key_V), np.float32) if user.weights is None else user.weights
    weight_W = np.where(key_V[held_W] == key_W, weight_V[held_W], 0)
    return np.bincount(pair_W, weights=weight_W, minlength=len(request_R)).astype(np.float32)


def _keys(request: Ints, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return one number for (request, value); two pairs share one with a chance of 2^-64."""
    return hash_integers(request) ^ hashes
