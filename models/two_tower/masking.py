"""Which features the two views of an item hide, and how much one feature tells about another.

Source: Yao et al., CIKM 2021, section 3.3. Legend: `F` features, `N` items, `V` values.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.jagged import concat_ranges, row_numbers
from models.two_tower.bags import Bag

Masks = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]


def mutual_information(bags: Sequence[Bag]) -> npt.NDArray[np.float64]:
    r"""Return how many nats two features tell about each other, for every pair.

    .. math:: \sum_{v, w} P(v, w) \log \frac{P(v, w)}{P(v) P(w)}

    Every item counts once, however often it is bought, and spreads its weight evenly over the pairs of its values. An
    item without a value has the value "none".

    Args:
        bags: The values of the same items for each of `F` features.

    Returns:
        float64 `[F, F]`, symmetric; the diagonal is not computed and holds zeros.

    Example:
        >>> colour = Bag(np.array([0, 0, 1, 1]), np.arange(5))
        >>> size = Bag(np.array([3, 3, 5, 5]), np.arange(5))
        >>> bool(np.isclose(mutual_information([colour, size])[0, 1], np.log(2)))
        True
    """
    filled = [_with_none(bag) for bag in bags]
    found_FF = np.zeros((len(bags), len(bags)))
    for one in range(len(bags)):
        for other in range(one):
            found_FF[one, other] = found_FF[other, one] = _pair_information(filled[one], filled[other])
    return found_FF


def reference_mutual_information(one: Bag, other: Bag) -> float:
    """Return the same for one pair of features, item by item in plain Python."""
    joint: dict[tuple[int, int], float] = collections.defaultdict(float)
    for item in range(len(one)):
        values = one.values[one.offsets[item] : one.offsets[item + 1]].tolist() or [-1]
        others = other.values[other.offsets[item] : other.offsets[item + 1]].tolist() or [-1]
        for value in values:
            for second in others:
                joint[value, second] += 1 / (len(one) * len(values) * len(others))
    left: dict[int, float] = collections.defaultdict(float)
    right: dict[int, float] = collections.defaultdict(float)
    for (value, second), share in joint.items():
        left[value] += share
        right[second] += share
    return sum(share * math.log(share / (left[value] * right[second])) for (value, second), share in joint.items())


def draw_masks(
    information_FF: npt.NDArray[np.float64], masking: str, complementary: bool, rng: np.random.Generator
) -> Masks:
    """Return which features the first and the second view hide, two boolean `[F]`.

    `cfm` hides a feature drawn at random and the floor(F / 2) features that tell most about it, `rfm` a random half.

    Args:
        information_FF: What `mutual_information` returned.
        masking: `cfm` or `rfm`.
        complementary: Whether the second view hides exactly what the first one shows; otherwise it draws anew.
        rng: Draws the seed feature, or the half.
    """
    hidden = _draw_mask(information_FF, masking, rng)
    return hidden, ~hidden if complementary else _draw_mask(information_FF, masking, rng)


def _draw_mask(
    information_FF: npt.NDArray[np.float64], masking: str, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    features = len(information_FF)
    hidden = np.zeros(features, dtype=bool)
    if masking == "rfm":
        hidden[rng.permutation(features)[: features // 2]] = True
        return hidden
    seed = int(rng.integers(features))
    told = information_FF[seed].copy()
    told[seed] = -np.inf
    # Of two features one must stay visible.
    related = min(features // 2, features - 2)
    hidden[np.argsort(-told, kind="stable")[:related]] = True
    hidden[seed] = True
    return hidden


def _with_none(bag: Bag) -> Bag:
    """Give items without a value the value 0, and move all others up by one."""
    lengths = np.diff(bag.offsets)
    values = np.insert(bag.values + 1, bag.offsets[:-1][lengths == 0], 0)
    return Bag(values, np.append(0, np.cumsum(np.maximum(lengths, 1))))


def _pair_information(one: Bag, other: Bag) -> float:
    one_lengths, other_lengths = np.diff(one.offsets), np.diff(other.offsets)
    item_V = row_numbers(one_lengths)
    left = np.repeat(one.values, other_lengths[item_V])
    right = other.values[concat_ranges(other.offsets[:-1][item_V], other_lengths[item_V])]
    weight = np.repeat(1 / (len(one) * one_lengths * other_lengths), one_lengths * other_lengths)
    width = int(right.max()) + 1
    pairs, pair_of = np.unique(left * width + right, return_inverse=True)
    joint = np.bincount(pair_of, weight)
    left_share, right_share = np.bincount(left, weight), np.bincount(right, weight)
    return float((joint * np.log(joint / (left_share[pairs // width] * right_share[pairs % width]))).sum())
