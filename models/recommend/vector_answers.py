"""What an index over item vectors is asked for many queries at once, and what was found so far.

Legend: `N` entries of the index, `D` width, `B` queries, `b` queries of one width, `K` entries wanted, `W` entries
looked at, `E` excluded entries of all queries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kernels.jagged import columns
from models.recommend.eligibility import BoolArray, Ints
from models.recommend.interface import NO_ITEM

Floats = npt.NDArray[np.float32]
Finder = Callable[[Floats, int], tuple[Ints, Floats]]
"""Queries and how many entries to find for each -> entries, best first, `NO_ITEM` after the last, and scores."""


class AllowedEntries:
    """The entries of an index that may be found; made once, used for many queries.

    Args:
        allowed_N: bool, one per entry.
    """

    def __init__(self, allowed_N: BoolArray) -> None:
        self.allowed_N = allowed_N
        self.count = int(np.count_nonzero(allowed_N))

    @cached_property
    def bitmap(self) -> npt.NDArray[np.uint8]:
        """A bit per entry, for indexes that ask about one entry after the other."""
        return np.packbits(self.allowed_N, bitorder="little")

    @cached_property
    def entries(self) -> Ints:
        """The numbers of the entries, for indexes that go through a list of them."""
        return np.flatnonzero(self.allowed_N)


class Answers:
    """The best allowed entries of each query, filled by one search after the other.

    Attributes:
        items_BK, scores_BK: Found so far, best first; `NO_ITEM` and `-inf` after the last.
        allowed_share: Share of the entries that is allowed.

    Args:
        queries_BD: float32 `[B, D]`.
        k: Entries wanted.
        entries: Number of entries `N`.
        rows_E, items_E: Which query excludes which entry.
        allowed: Entries that may be found at all, None for all.
    """

    def __init__(
        self, queries_BD: Floats, k: int, entries: int, rows_E: Ints, items_E: Ints, allowed: AllowedEntries | None
    ) -> None:
        self._queries_BD, self._k, self._entries, self._allowed = queries_BD, k, entries, allowed
        self._count = entries if allowed is None else allowed.count
        if allowed is not None:
            passing_E = allowed.allowed_N[items_E]
            rows_E, items_E = rows_E[passing_E], items_E[passing_E]
        self._keys_E = np.unique(rows_E * entries + items_E)
        self._out_B = np.bincount(self._keys_E // max(entries, 1), minlength=len(queries_BD))
        self.allowed_share = self._count / max(entries, 1)
        self.items_BK: Ints = np.full((len(queries_BD), k), NO_ITEM, dtype=np.int64)
        self.scores_BK: Floats = np.full((len(queries_BD), k), -np.inf, dtype=np.float32)

    def fill(self, rows: Ints, find: Finder, share: float = 1.0) -> None:
        """Answer the queries of these rows.

        Args:
            rows: Numbers of queries.
            find: Asked for so many more than `k` as are excluded, and more where it does not know what is allowed.
            share: Share of what it finds that is allowed.
        """
        wanted_b = np.ceil((self._k + self._out_B[rows]) / share).astype(np.int64)
        widths_b = _widths(wanted_b, self._count if share == 1 else self._entries)
        for width in np.unique(widths_b[widths_b > 0]):
            mine = rows[widths_b == width]
            found_bW, scores_bW = find(self._queries_BD[mine], int(width))
            taken_bW = (found_bW == NO_ITEM) | np.isin(mine[:, None] * self._entries + found_bW, self._keys_E)
            if self._allowed is not None:
                taken_bW |= ~self._allowed.allowed_N[found_bW]
            self.items_BK[mine], self.scores_BK[mine] = _first(found_bW, scores_bW, taken_bW, self._k)

    def lacking(self) -> Ints:
        """Return the queries that hold fewer than `min(k, entries they may get)`."""
        found_B = (self.items_BK != NO_ITEM).sum(axis=1)
        return np.flatnonzero(found_B < np.minimum(self._k, self._count - self._out_B))


def _widths(wanted_B: Ints, items: int) -> Ints:
    """Round up to powers of two: few searches for a batch, each request's width still its own affair."""
    return np.minimum(2 ** np.ceil(np.log2(np.maximum(wanted_B, 1))).astype(np.int64), items)


def _first(found_BW: Ints, scores_BW: Floats, taken_BW: BoolArray, k: int) -> tuple[Ints, Floats]:
    """Return the `k` first entries per row that are not taken."""
    rows, places = np.nonzero(~taken_BW)
    ranks = columns(np.bincount(rows, minlength=len(found_BW)))
    rows, places, ranks = rows[ranks < k], places[ranks < k], ranks[ranks < k]
    items_BK = np.full((len(found_BW), k), NO_ITEM, dtype=np.int64)
    scores_BK = np.full((len(found_BW), k), -np.inf, dtype=np.float32)
    items_BK[rows, ranks] = found_BW[rows, places]
    scores_BK[rows, ranks] = scores_BW[rows, places]
    return items_BK, scores_BK
