"""Which items pass the filters of requests: one mask per distinct filter, shared by requests, batches and retrievers.

Legend: `B` requests, `F` distinct filters, `N` items of the catalogue, `X` (request, item) pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Value = TypeVar("Value")


class ItemMask:
    """The items that pass one filter; never changed once it is made, so that what follows from it can be kept.

    Attributes:
        allowed_N: bool, one per item of the catalogue; read-only.

    Args:
        allowed_N: Which items pass; taken over, not copied.
    """

    def __init__(self, allowed_N: BoolArray) -> None:
        self.allowed_N = allowed_N
        self.allowed_N.setflags(write=False)

    def __len__(self) -> int:
        return len(self.allowed_N)

    @cached_property
    def count(self) -> int:
        """Number of items that pass."""
        return int(np.count_nonzero(self.allowed_N))


class PerMask(Generic[Value]):
    """What somebody works out of masks, kept as long as the mask lives.

    Args:
        make: Works it out.

    Example:
        >>> made = PerMask(lambda mask: np.flatnonzero(mask.allowed_N).tolist())
        >>> mask = ItemMask(np.array([True, False, True]))
        >>> made(mask), made(mask) is made(mask)
        ([0, 2], True)
    """

    def __init__(self, make: Callable[[ItemMask], Value]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[ItemMask, Value] = WeakKeyDictionary()

    def __call__(self, mask: ItemMask) -> Value:
        """Return what was made of this mask before, or make it now."""
        value = self._made.get(mask)
        if value is None:
            value = self._made[mask] = self._make(mask)
        return value


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Eligibility:
    """The masks of a batch of requests: availability at the request's moment and the filters it asked for.

    Attributes:
        masks: `F` masks over the same `N` items.
        row_B: Number of each request's mask, int64, `0 <= row < F`.

    Raises:
        ValueError: Masks differ in length, or a number has no mask.
    """

    masks: tuple[ItemMask, ...]
    row_B: Ints

    def __post_init__(self) -> None:
        lengths = sorted({len(mask) for mask in self.masks})
        if len(lengths) > 1:
            raise ValueError(f"masks: expected one length, that of the catalogue, got {lengths}")
        if len(self.row_B) and not 0 <= self.row_B.min() <= self.row_B.max() < len(self.masks):
            raise ValueError(
                f"row_B: expected numbers of {len(self.masks)} masks, got {self.row_B.min()} to {self.row_B.max()}"
            )

    @classmethod
    def of(cls, masks_FN: npt.ArrayLike, row_B: npt.ArrayLike) -> Eligibility:
        """Make it of plain arrays: masks `[F, N]` and the number of each request's mask.

        Example:
            >>> eligible = Eligibility.of([[True, False], [True, True]], [1, 0, 1])
            >>> [eligible.mask_of(row).count for row in range(3)]
            [2, 1, 2]
        """
        masks = tuple(ItemMask(allowed_N) for allowed_N in np.array(masks_FN, dtype=bool))
        return cls(masks=masks, row_B=np.array(row_B, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.row_B)

    def mask_of(self, row: int) -> ItemMask:
        """Return one request's mask."""
        return self.masks[self.row_B[row]]

    def take(self, rows: npt.NDArray[np.integer]) -> Eligibility:
        """Return that of the requests of these rows, with the masks that they use."""
        used, row_B = np.unique(self.row_B[rows], return_inverse=True)
        return Eligibility(masks=tuple(self.masks[number] for number in used), row_B=row_B.reshape(-1))

    def allows(self, rows_X: Ints, items_X: Ints) -> BoolArray:
        """Return whether each item passes the filter of the request beside it, `[X]`."""
        number_X = self.row_B[rows_X]
        allowed_X = np.zeros(len(items_X), dtype=bool)
        for number, mask in enumerate(self.masks):
            mine = number_X == number
            allowed_X[mine] = mask.allowed_N[items_X[mine]]
        return allowed_X


def groups(eligible: Eligibility | None, size: int) -> Iterator[tuple[ItemMask | None, Ints]]:
    """Yield each distinct mask and the rows of its requests; None, and all rows, where nothing is filtered."""
    if eligible is None:
        yield None, np.arange(size)
        return
    for number, mask in enumerate(eligible.masks):
        yield mask, np.flatnonzero(eligible.row_B == number)


def shared(keys: Sequence[object], make: Callable[[int], ItemMask]) -> Eligibility:
    """Make one mask per distinct key.

    Args:
        keys: `B` hashable keys; equal ones stand for equal masks.
        make: Returns the mask of the request with this number, the first with its key.
    """
    numbers: dict[object, int] = {}
    masks: list[ItemMask] = []
    row_B = np.zeros(len(keys), dtype=np.int64)
    for row, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(masks)
            masks.append(make(row))
        row_B[row] = numbers[key]
    return Eligibility(masks=tuple(masks), row_B=row_B)
