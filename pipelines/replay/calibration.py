"""Whether logged propensities are the rates at which things were shown.

Legend: `R` logged pages, `P` slots, `X` shown items, `N` items (few), `C` bins of probabilities.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from pipelines.replay.rounds import Bools, Floats, Hashes, Ints

MOST_ITEMS = 1000
"""More items than this are not counted one by one: each is shown too seldom to tell anything."""
BIN_EDGES: Floats = 10.0 ** (np.arange(-50, 0) / 10)
"""Between bins of probabilities, ten for each power of ten; one that equals an edge belongs above it."""
BINS = len(BIN_EDGES) + 1
LEAST_EXPECTED = 5.0
"""Cells in which fewer are expected are left out: chi-square needs about so many (Cochran 1954)."""
LEAST_FREEDOM = 1e-6
"""Bins with less freedom hold all probability on all pages: their counts are certain but for rounding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChiSquare:
    """A test of counts against what was expected.

    Attributes:
        statistic: Sum of squared deviations in units of their variance; its mean is `df` if all is right.
        df: Degrees of freedom; whole where every page has the same chances.
        p: Chance of such a statistic or a larger one if all is right; 1 without a cell to test.
        cells: How many cells were tested.
        gate_p: The p-value that holds whatever the contexts are, and so may stop a verdict.
    """

    statistic: float
    df: float
    p: float
    cells: int
    gate_p: float

    @classmethod
    def of(cls, squares: Floats, freedom: Floats, gate_p: float | None = None) -> ChiSquare:
        """Sum cells up: their squared deviations, and the expectation of each if all is right."""
        statistic, df = float(squares.sum()), float(freedom.sum())
        p = float(stats.chi2.sf(statistic, df)) if df > 0 else 1.0
        return cls(statistic=statistic, df=df, p=p, cells=len(squares), gate_p=p if gate_p is None else gate_p)


def bins_of(chances: Floats) -> Ints:
    """Return the bin of each probability.

    Example:
        >>> bins_of(np.array([0.0, 0.011, 0.5, 1.0])).tolist()
        [0, 31, 47, 50]
    """
    return np.searchsorted(BIN_EDGES, chances, side="right").astype(np.int64)


class ItemCounts:
    """Whether each item's 1/propensity adds up to the number of pages, slot by slot.

    An item that is shown with probability p_r on page r has sum over its showings of 1/p_r of mean n, whatever the
    context, and of variance sum_r 1/p_r - n. With S = sum of 1/p over its showings and Q = sum of 1/p^2, m = n Q / S
    estimates sum_r 1/p_r (exactly where p is the same on all pages), and over all items

        chi^2 = sum (S - n)^2 / m,   df = sum (1 - n / m),

    which is Pearson's test with df = items - 1 where p is the same on all pages. Where p differs much, pages on which
    an item was improbable are rarely among its showings: S then mostly lies below n, and m is too small. So only items
    with S above n may stop a verdict: z = (S - n) / sqrt(Q), which a large 1/p holds down, at Bonferroni's level over
    all items and slots. Chances add up to 1, so a log with one too large has others too small.
    """

    def __init__(self) -> None:
        self._items_N = np.zeros(0, dtype=np.uint64)
        self._sums_PN3 = np.zeros((0, 0, 3))
        self._too_many = False

    def add(self, items_X: Hashes, slots_X: Ints, propensities_X: Floats) -> None:
        """Count shown items.

        Args:
            items_X: Hash of each; once there are more than `MOST_ITEMS`, nothing is counted any more.
            slots_X: Where it stood, from 0 on.
            propensities_X: Probability with which it was shown there, above 0.
        """
        self._know(np.unique(items_X), int(slots_X.max(initial=-1)) + 1)
        if not self._too_many:
            inverse = 1.0 / propensities_X
            values = np.stack([np.ones_like(inverse), inverse, inverse**2], axis=1)
            np.add.at(self._sums_PN3, (slots_X, np.searchsorted(self._items_N, items_X)), values)

    def merge(self, other: ItemCounts) -> None:
        """Add what another one counted."""
        self._too_many |= other._too_many
        slots = len(other._sums_PN3)
        self._know(other._items_N, slots)
        if not self._too_many:
            self._sums_PN3[:slots, np.searchsorted(self._items_N, other._items_N)] += other._sums_PN3

    def test(self) -> ChiSquare:
        """Return the test over all slots and items."""
        shown_PN, sums_PN, squares_PN = np.moveaxis(self._sums_PN3, 2, 0)
        pages_PN = np.broadcast_to(shown_PN.sum(axis=1, keepdims=True), sums_PN.shape)
        seen_PN = shown_PN > 0
        n, S, Q = pages_PN[seen_PN], sums_PN[seen_PN], squares_PN[seen_PN]
        m = n * Q / S
        enough = n**2 / m >= LEAST_EXPECTED
        most = float(((S - n) / np.sqrt(Q)).max(initial=-np.inf))
        gate_p = min(1.0, len(n) * float(stats.norm.sf(most)))
        return ChiSquare.of(((S - n) ** 2 / m)[enough], (1 - n / m)[enough], gate_p)

    def _know(self, items: Hashes, slots: int) -> None:
        """Make room for items and slots; where there are too many items, forget all."""
        every_N = np.union1d(self._items_N, items)
        self._too_many |= len(every_N) > MOST_ITEMS
        if self._too_many:
            self._items_N, self._sums_PN3 = every_N[:0], np.zeros((0, 0, 3))
            return
        before = self._sums_PN3
        self._sums_PN3 = np.zeros((max(slots, len(before)), len(every_N), 3))
        self._sums_PN3[: len(before), np.searchsorted(every_N, self._items_N)] = before
        self._items_N = every_N


class BinCounts:
    """Whether as many shown items have a propensity of each size as the logging policy's own chances let expect.

    A page on which the items with probabilities in a bin have q_r together shows one of them with probability q_r:
    chi^2 = sum (shown - sum_r q_r)^2 / sum_r q_r over slots and bins, whose mean is sum_r q_r (1 - q_r) / sum_r q_r.
    """

    def __init__(self) -> None:
        self._sums_PC3 = np.zeros((0, BINS, 3))

    def add(self, propensities_RP: Floats, mass_RPC: Floats, there_RP: Bools) -> None:
        """Count pages.

        Args:
            propensities_RP: Probability with which the shown item was shown, from the same chances as `mass_RPC`.
            mass_RPC: Probability of all items whose probability is in the bin, see `bin_masses`.
            there_RP: Slots that hold an item.
        """
        shown_RPC = (bins_of(propensities_RP)[:, :, None] == np.arange(BINS)) & there_RP[:, :, None]
        mass_RPC = mass_RPC * there_RP[:, :, None]
        sums = np.stack([shown_RPC.sum(axis=0), mass_RPC.sum(axis=0), (mass_RPC**2).sum(axis=0)], axis=2)
        self._add(sums)

    def merge(self, other: BinCounts) -> None:
        """Add what another one counted."""
        self._add(other._sums_PC3)

    def test(self) -> ChiSquare:
        """Return the test over all slots and bins."""
        shown, expected, squares = self._sums_PC3.reshape(-1, 3).T
        freedom = 1 - np.divide(squares, expected, out=np.ones_like(squares), where=expected > 0)
        enough = (expected >= LEAST_EXPECTED) & (freedom >= LEAST_FREEDOM)
        return ChiSquare.of(((shown - expected)[enough] ** 2 / expected[enough]), freedom[enough])

    def _add(self, sums_PC3: Floats) -> None:
        missing = max(0, len(sums_PC3) - len(self._sums_PC3))
        self._sums_PC3 = np.pad(self._sums_PC3, ((0, missing), (0, 0), (0, 0)))
        self._sums_PC3[: len(sums_PC3)] += sums_PC3


class Calibration:
    """Both counts of some pages."""

    def __init__(self) -> None:
        self.items, self.bins = ItemCounts(), BinCounts()

    def merge(self, other: Calibration) -> None:
        """Add what another one counted."""
        self.items.merge(other.items)
        self.bins.merge(other.bins)

    def tests(self) -> dict[str, ChiSquare]:
        """Return the tests `items` and `bins`; only those that something was counted for."""
        found = {"items": self.items.test(), "bins": self.bins.test()}
        return {name: test for name, test in found.items() if test.cells}


def bin_masses(chances_RPN: Floats) -> Floats:
    """Return how probable all items of each bin of probabilities are together; shape [R, P, C].

    Args:
        chances_RPN: The logging policy's probability of each candidate in each slot; 0 for what is no candidate.

    Example:
        >>> bin_masses(np.array([[[0.5, 0.25, 0.25]]]))[0, 0, 44:].tolist()
        [0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]
    """
    slots = chances_RPN.shape[0] * chances_RPN.shape[1]
    cells_RPN = np.arange(slots).reshape(*chances_RPN.shape[:2], 1) * BINS + bins_of(chances_RPN)
    sums = np.bincount(cells_RPN.ravel(), weights=chances_RPN.ravel(), minlength=slots * BINS)
    return sums.astype(np.float64).reshape(*chances_RPN.shape[:2], BINS)
