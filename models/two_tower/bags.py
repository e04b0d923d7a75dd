"""Bags: jagged rows of embedding tables, one bag per example and feature, gathered without Python loops.

Legend: `R` bags, `V` values of all bags.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kernels.jagged import concat_ranges, offsets_from_lengths

IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Bag:
    """Table rows per example, none, one or many.

    ::

        values  [ 4 7 | 4 | ]
        offsets [ 0   , 2 , 3, 3 ]      bag r owns values[offsets[r]:offsets[r + 1]]

    Attributes:
        values: `V` row numbers.
        offsets: `R + 1` offsets.
    """

    values: IntArray
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def empty(cls, rows: int) -> Bag:
        """Return bags without values."""
        return cls(np.zeros(0, np.int64), np.zeros(rows + 1, np.int64))

    def take(self, rows: IntArray) -> Bag:
        """Return these bags, in their order."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        return Bag(self.values[concat_ranges(self.offsets[rows], lengths)], offsets_from_lengths(lengths))

    def merged(self, rows: IntArray, offsets: IntArray) -> Bag:
        """Return the union of several bags for each example, a value as often as it occurs.

        Args:
            rows: The bags of example 0, then of example 1, ...
            offsets: Where each example's begin.

        Example:
            >>> words = Bag(np.array([4, 7, 9]), np.array([0, 2, 3]))
            >>> words.merged(np.array([0, 1, 1]), np.array([0, 2, 2, 3]))
            Bag(values=array([4, 7, 9, 9]), offsets=array([0, 3, 3, 4]))
        """
        taken = self.take(rows)
        return Bag(taken.values, taken.offsets[offsets])

    def kept(self, keep_V: npt.NDArray[np.bool_]) -> Bag:
        """Return the bags with only these values.

        Example:
            >>> Bag(np.array([4, 7, 9]), np.array([0, 2, 3])).kept(np.array([False, True, False]))
            Bag(values=array([7]), offsets=array([0, 1, 1]))
        """
        return Bag(self.values[keep_V], offsets_from_lengths(keep_V.astype(np.int64))[self.offsets])


def concatenated(bags: list[Bag]) -> Bag:
    """Return the bags of all of `bags`, one after the other."""
    lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
    return Bag(np.concatenate([bag.values for bag in bags]), offsets_from_lengths(lengths))
