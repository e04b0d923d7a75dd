"""Retrievers without training: the popular list and item transitions. Every learned retriever is measured beside them.

Legend: `B` requests, `b` requests with one mask, `N` items, `K` candidates, `W` items looked at, `E` excluded items,
`S` scored (request, item) pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from features.schemas import POSITIVE_CODES
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from kernels.jagged import columns, row_numbers
from models.recommend.eligibility import BoolArray, Ints, ItemMask, groups
from models.recommend.growth import NewItems
from models.recommend.interface import NO_ITEM, Candidates, RequestBatch

Floats = npt.NDArray[np.float64]


def popularity_of(item_statistics: pa.Table, catalogue: Catalogue) -> Floats:
    """Return the number of positive training events of each catalogue item, shape `[N]`, 0 for new items."""
    numbers = catalogue.numbers(item_statistics.column("item_id"))
    known = numbers >= 0
    popularity_N = np.zeros(len(catalogue))
    popularity_N[numbers[known]] = np.asarray(item_statistics.column("popularity"))[known]
    return popularity_N


class PopularRetriever:
    """The most popular items, the same for everybody; ties by item number.

    Args:
        popularity_N: One number per catalogue item, larger is better.
        name: Logged as the source of its candidates.

    Example:
        >>> popular = PopularRetriever(np.array([1.0, 5.0, 5.0]))
        >>> popular.order_N.tolist()
        [1, 2, 0]
    """

    def __init__(self, popularity_N: npt.NDArray[np.floating], name: str = "popular") -> None:
        self.name = name
        self.popularity_N: Floats = np.asarray(popularity_N, dtype=np.float64)
        self.order_N: Ints = np.argsort(-self.popularity_N, kind="stable")
        self.rank_N: Ints = np.argsort(self.order_N)

    @classmethod
    def from_arrow(cls, item_statistics: pa.Table, catalogue: Catalogue) -> PopularRetriever:
        """Build it from rows of `item_statistics`."""
        return cls(popularity_of(item_statistics, catalogue))

    @classmethod
    def from_tables(cls, workspace: Workspace, catalogue: Catalogue) -> PopularRetriever:
        """Build it from the workspace's `item_statistics`."""
        return cls.from_arrow(workspace.table("item_statistics").read(["item_id", "popularity"]), catalogue)

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return the `k` most popular items that a request may get."""
        items_BK = self.first(requests, k)
        scores_BK = np.where(items_BK == NO_ITEM, -np.inf, self.popularity_N[items_BK]).astype(np.float32)
        return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=self.name)

    def first(self, requests: RequestBatch, k: int) -> Ints:
        """Return the `k` most popular items per request, `[B, K]`, `NO_ITEM` where what it may get is used up.

        Costs, beside what is looked up once per mask, `O(B (k + excluded items of a request))`.
        """
        items_BK = np.full((len(requests), k), NO_ITEM, dtype=np.int64)
        rows_E, items_E = requests.excluded_rows, requests.excluded_items
        excluded_B = np.diff(requests.excluded_offsets)
        local_B = np.zeros(len(requests), dtype=np.int64)
        for mask, rows in groups(requests.eligible, len(requests)):
            local_B[:], local_B[rows] = NO_ITEM, np.arange(len(rows))
            here_E = local_B[rows_E] != NO_ITEM
            ranks_W = self._first_ranks(mask, k + int(excluded_B[rows].max(initial=0)))
            items_BK[rows] = self._without(ranks_W, local_B[rows_E[here_E]], items_E[here_E], len(rows), k)
        return items_BK

    def _first_ranks(self, mask: ItemMask | None, width: int) -> Ints:
        """Return the places in the list, rising, of the `width` most popular items that pass."""
        if mask is None or mask.count == len(mask):
            return np.arange(min(width, len(self.order_N)))
        if mask.count**2 <= width * len(mask):  # so few pass that walking down the list takes longer than sorting them
            return np.sort(self.rank_N[np.flatnonzero(mask.allowed_N)])[:width]
        reach = 2 * width * len(mask) // mask.count
        while True:
            ranks = np.flatnonzero(mask.allowed_N[self.order_N[:reach]])
            if len(ranks) >= width or reach >= len(mask):
                return ranks[:width]
            reach *= 4

    def _without(self, ranks_W: Ints, rows_E: Ints, items_E: Ints, size: int, k: int) -> Ints:
        """Return the first `k` items at these places in the list, per row, less the row's excluded ones."""
        items_bK = np.full((size, k), NO_ITEM, dtype=np.int64)
        if not len(ranks_W):
            return items_bK
        place_E = np.minimum(np.searchsorted(ranks_W, self.rank_N[items_E]), len(ranks_W) - 1)
        there_E = ranks_W[place_E] == self.rank_N[items_E]
        taken_bW = np.zeros((size, len(ranks_W)), dtype=bool)
        taken_bW[rows_E[there_E], place_E[there_E]] = True
        free_bK = np.argsort(taken_bW, axis=1, kind="stable")[:, :k]
        items_bK[:, : free_bK.shape[1]] = np.where(
            np.take_along_axis(taken_bW, free_bK, axis=1), NO_ITEM, self.order_N[ranks_W[free_bK]]
        )
        return items_bK

    def with_new_items(self, new: NewItems) -> PopularRetriever:
        """Return the list with further items, which nobody had yet, behind the others."""
        return PopularRetriever(np.append(self.popularity_N, np.zeros(len(new))), self.name)


class TransitionsRetriever:
    r"""Items that followed the user's last items in other users' histories.

    .. math:: score(b) = \sum_{j=0}^{window - 1} decay^j \; weight(item_{-1-j} \to b)

    over the user's positive events, the newest first; a repeated item counts each time. Popularity breaks ties, those
    at score 0 included: whoever has too few followers gets the popular items behind them.

    Args:
        weights_NN: Positive transition weights, row = earlier item, column = later item.
        popularity_N: Breaks ties and fills up.
        window: History items that count.
        decay: Weight of an item relative to the next newer one.
        name: Logged as the source of its candidates.

    Raises:
        ValueError: Shapes differ or a weight is not positive.
    """

    def __init__(
        self,
        weights_NN: sp.csr_matrix,
        popularity_N: npt.NDArray[np.floating],
        *,
        window: int = 10,
        decay: float = 0.7,
        name: str = "transitions",
    ) -> None:
        items = len(popularity_N)
        if weights_NN.shape != (items, items):
            raise ValueError(f"transition weights: expected shape {(items, items)}, got {weights_NN.shape}")
        if weights_NN.nnz and not weights_NN.data.min() > 0:
            raise ValueError(f"transition weights: expected positive numbers, got {weights_NN.data.min()}")
        self.name, self.window, self.decay = name, window, decay
        self.popular = PopularRetriever(popularity_N)
        # With columns in order of popularity, a stable sort by score leaves ties in that order.
        by_rank = sp.csr_matrix(weights_NN[:, self.popular.order_N], dtype=np.float64)
        by_rank.sort_indices()
        self._weights_by_rank = by_rank

    @classmethod
    def from_arrow(cls, transitions: pa.Table, item_statistics: pa.Table, catalogue: Catalogue) -> TransitionsRetriever:
        """Build it from rows of `transitions` and `item_statistics`; items outside the catalogue are left out."""
        earlier = catalogue.numbers(transitions.column("item_id"))
        later = catalogue.numbers(transitions.column("next_item_id"))
        known = (earlier >= 0) & (later >= 0)
        weights = np.asarray(transitions.column("weight"))[known]
        shape = (len(catalogue), len(catalogue))
        matrix = sp.csr_matrix((weights, (earlier[known], later[known])), shape=shape)
        return cls(matrix, popularity_of(item_statistics, catalogue))

    @classmethod
    def from_tables(cls, workspace: Workspace, catalogue: Catalogue) -> TransitionsRetriever:
        """Build it from the workspace's `transitions` and `item_statistics`."""
        statistics = workspace.table("item_statistics").read(["item_id", "popularity"])
        return cls.from_arrow(workspace.table("transitions").read(), statistics, catalogue)

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return the `k` best followers of each request's history, then popular items with score 0."""
        scored = self._recent_history(requests) @ self._weights_by_rank
        items_BK, scores_BK = self._best(scored, requests.permits, k)
        lacking = np.flatnonzero(items_BK[:, -1] == NO_ITEM)
        if len(lacking):
            items_BK[lacking] = self._filled(items_BK[lacking], requests.take(lacking))
            scores_BK[lacking] = np.where(
                items_BK[lacking] == NO_ITEM, -np.inf, np.maximum(scores_BK[lacking], np.float32(0))
            )
        return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=self.name)

    def similar(self, item: int, k: int, mask: ItemMask | None = None) -> Candidates:
        """Return up to `k` followers of one item as a batch of one request; nothing is filled up.

        Args:
            item: Item number; never among the answers.
            k: Items wanted.
            mask: Which items may be returned; None for all.
        """

        def permits(_: Ints, items_S: Ints) -> BoolArray:
            return items_S != item if mask is None else (items_S != item) & mask.allowed_N[items_S]

        items_BK, scores_BK = self._best(self._weights_by_rank[item], permits, k)
        return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=self.name)

    def with_new_items(self, new: NewItems) -> TransitionsRetriever:
        """Return this retriever with further items, which follow nothing yet; it stays as it is, weights are shared."""
        other, weights = copy.copy(self), self._weights_by_rank
        other.popular = self.popular.with_new_items(new)
        size = len(other.popular.order_N)
        offsets = np.append(weights.indptr, np.full(len(new), weights.indptr[-1], weights.indptr.dtype))
        # new items are the least popular: the ranks of the others, which number the columns, stay
        other._weights_by_rank = sp.csr_matrix((weights.data, weights.indices, offsets), shape=(size, size))
        return other

    def _recent_history(self, requests: RequestBatch) -> sp.csr_matrix:
        """Return `[B, N]`: the summed decay of each history item inside the window."""
        positive = np.isin(requests.history_events, POSITIVE_CODES)
        rows = row_numbers(np.diff(requests.history_offsets))[positive]
        items = requests.history_items[positive]
        ends_B = np.cumsum(np.bincount(rows, minlength=len(requests)))
        steps_back = ends_B[rows] - 1 - np.arange(len(rows))
        near = steps_back < self.window
        shape = (len(requests), len(self.popular.order_N))
        return sp.csr_matrix((self.decay ** steps_back[near], (rows[near], items[near])), shape=shape)

    def _best(
        self, scored: sp.csr_matrix, permits: Callable[[Ints, Ints], BoolArray], k: int
    ) -> tuple[Ints, npt.NDArray[np.float32]]:
        """Return the `k` best stored entries of each row that it is permitted; columns are popularity ranks."""
        size = scored.shape[0]
        scored.sort_indices()
        rows_S = row_numbers(np.diff(scored.indptr))
        allowed_S = permits(rows_S, self.popular.order_N[scored.indices])
        rows_S, ranks_S = rows_S[allowed_S], scored.indices[allowed_S]
        scores_S = scored.data[allowed_S].astype(np.float32)
        # The bits of positive floats sort like the floats: one integer key orders by row, then by falling score.
        order_S = np.argsort((rows_S << 32) - scores_S.view(np.int32).astype(np.int64), kind="stable")
        place_S = columns(np.bincount(rows_S, minlength=size))
        kept_S = place_S < k
        items_BK: Ints = np.full((size, k), NO_ITEM, dtype=np.int64)
        scores_BK = np.full((size, k), -np.inf, dtype=np.float32)
        cells = rows_S[kept_S], place_S[kept_S]
        items_BK[cells] = self.popular.order_N[ranks_S[order_S[kept_S]]]
        scores_BK[cells] = scores_S[order_S[kept_S]]
        return items_BK, scores_BK

    def _filled(self, items_bK: Ints, requests: RequestBatch) -> Ints:
        """Put the most popular other items behind the scored ones."""
        rows, places = np.nonzero(items_bK != NO_ITEM)
        popular_bK = self.popular.first(requests.excluding(rows, items_bK[rows, places]), items_bK.shape[1])
        both = np.concatenate([items_bK, popular_bK], axis=1)
        first_bK = np.argsort(both == NO_ITEM, axis=1, kind="stable")[:, : items_bK.shape[1]]
        return np.take_along_axis(both, first_bK, axis=1)
