"""What passes between the stages of the page maker: batches of requests in, candidates out.

Items are catalogue numbers (`features.semantic_ids.Catalogue.numbers`) everywhere; ids appear only at the edges.
Legend: `B` requests, `H` history entries of all requests, `E` excluded items of all requests, `K` candidates, `X`
(request, item) pairs.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from features.columns import Columns
from features.semantic_ids import Catalogue
from kernels.jagged import concat_ranges, offsets_from_lengths, row_numbers
from models.recommend.eligibility import BoolArray, Eligibility, Ints

NO_ITEM = -1
"""Pads a request's candidates when a retriever finds fewer than asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestBatch:
    """Requests to be answered together, jagged by request.

    ::

        history_items   [ 7 3 3 | 5 | ]      oldest first, catalogue numbers, unknown items left out
        history_offsets [ 0 3 4 4 ]          request b owns entries offsets[b]:offsets[b + 1]

    Attributes:
        user_ids: `B` ids.
        times_B: The moment of each request, int64 milliseconds since 1970 UTC; histories lie strictly before it.
        history_items, history_events, history_times: `H` entries: item number, code of `EVENT_KINDS`, milliseconds.
            Positive events and dislikes only.
        history_offsets: `B + 1` offsets.
        excluded_items, excluded_offsets: Items that this request must not get (seen, shown before, disliked, named by
            the caller), jagged in the same way; few.
        eligible: Which items pass the request's filter at its moment; None where all do.
        columns: What is known of user and moment beside the history, `B` rows: `user.<attribute>`, `context.<key>`
            and the user features of `features.definitions` by their names.
    """

    user_ids: list[str]
    times_B: npt.NDArray[np.int64]
    history_items: npt.NDArray[np.int64]
    history_events: npt.NDArray[np.int8]
    history_times: npt.NDArray[np.int64]
    history_offsets: npt.NDArray[np.int64]
    excluded_items: npt.NDArray[np.int64]
    excluded_offsets: npt.NDArray[np.int64]
    eligible: Eligibility | None = None
    columns: Columns | None = None

    def __post_init__(self) -> None:
        size = len(self.user_ids)
        if self.columns is not None and self.columns.rows != size:
            raise ValueError(f"columns: expected one row per request, {size}, got {self.columns.rows}")
        if self.eligible is not None and len(self.eligible) != size:
            raise ValueError(f"eligible: expected one mask per request, {size}, got {len(self.eligible)}")
        for name, offsets, values in (
            ("history", self.history_offsets, self.history_items),
            ("excluded", self.excluded_offsets, self.excluded_items),
        ):
            if len(offsets) != size + 1 or offsets[0] != 0 or offsets[-1] != len(values):
                raise ValueError(
                    f"{name}_offsets: expected {size + 1} offsets from 0 to {len(values)}, got {len(offsets)} "
                    f"from {offsets[0] if len(offsets) else None} to {offsets[-1] if len(offsets) else None}"
                )

    def __len__(self) -> int:
        return len(self.user_ids)

    def take(self, rows: npt.NDArray[np.integer]) -> RequestBatch:
        """Return the requests of these rows, in their order."""
        history_lengths = np.diff(self.history_offsets)[rows]
        history = concat_ranges(self.history_offsets[rows], history_lengths)
        excluded_lengths = np.diff(self.excluded_offsets)[rows]
        return RequestBatch(
            user_ids=[self.user_ids[row] for row in rows],
            times_B=self.times_B[rows],
            history_items=self.history_items[history],
            history_events=self.history_events[history],
            history_times=self.history_times[history],
            history_offsets=offsets_from_lengths(history_lengths),
            excluded_items=self.excluded_items[concat_ranges(self.excluded_offsets[rows], excluded_lengths)],
            excluded_offsets=offsets_from_lengths(excluded_lengths),
            eligible=None if self.eligible is None else self.eligible.take(rows),
            columns=None if self.columns is None else self.columns.take(rows),
        )

    @property
    def excluded_rows(self) -> Ints:
        """The request that each of the excluded items belongs to, `[E]`."""
        return row_numbers(np.diff(self.excluded_offsets))

    def excluding(self, rows_X: Ints, items_X: Ints) -> RequestBatch:
        """Return the same requests with further excluded items; each item is then named once per request, in order.

        Args:
            rows_X: The request that must not get the item beside it.
            items_X: Catalogue numbers.
        """
        rows, items = np.append(self.excluded_rows, rows_X), np.append(self.excluded_items, items_X)
        radix = int(items.max(initial=0)) + 1
        keys = np.unique(rows * radix + items)
        lengths_B = np.bincount(keys // radix, minlength=len(self))
        return dataclasses.replace(self, excluded_items=keys % radix, excluded_offsets=offsets_from_lengths(lengths_B))

    def permits(self, rows_X: Ints, items_X: Ints) -> BoolArray:
        """Return whether each item may be returned to the request beside it: it passes and is not excluded, `[X]`."""
        radix = max(int(items_X.max(initial=0)), int(self.excluded_items.max(initial=0))) + 1
        excluded_X = np.isin(rows_X * radix + items_X, self.excluded_rows * radix + self.excluded_items)
        return ~excluded_X if self.eligible is None else ~excluded_X & self.eligible.allows(rows_X, items_X)

    def with_newest(self, length: int) -> RequestBatch:
        """Return the same requests with at most the `length` newest entries of each history."""
        lengths_B = np.minimum(np.diff(self.history_offsets), length)
        newest = concat_ranges(self.history_offsets[1:] - lengths_B, lengths_B)
        return dataclasses.replace(
            self,
            history_items=self.history_items[newest],
            history_events=self.history_events[newest],
            history_times=self.history_times[newest],
            history_offsets=offsets_from_lengths(lengths_B),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """A ranked list per request.

    Attributes:
        items_BK: Catalogue numbers, best first, `NO_ITEM` after the last.
        scores_BK: float32, not increasing along `K`; `-inf` where there is no item.
        source: The retriever's name, logged with every served item.
    """

    items_BK: npt.NDArray[np.int64]
    scores_BK: npt.NDArray[np.float32]
    source: str


class Retriever(Protocol):
    """Anything that proposes items: GenRec, item transitions, popularity, a two-tower index.

    A retriever returns no item twice for a request, none of its excluded items, none that does not pass its filter
    (`RequestBatch.eligible`), and `NO_ITEM` rather than an arbitrary item when it has nothing more to say. Neither rule
    costs it candidates: what it returns is what would be left of all that it has to say.
    """

    name: str

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return up to `k` candidates per request."""
        ...


class UserEncoder(Protocol):
    """Anything that turns requests into vectors of their users: the user tower of the two-tower model."""

    def user_vectors(self, requests: RequestBatch, catalogue: Catalogue) -> npt.NDArray[np.float32]:
        """Return each user at the moment of the request.

        Args:
            requests: `B` requests.
            catalogue: Numbers the items of the requests.

        Returns:
            float32 `[B, D]`, rows of length 1, or of zeros where nothing is known.
        """
        ...


class Ranker(Protocol):
    """Anything that scores given candidates of a request; the stage between retrieval and policy."""

    name: str

    def score(self, requests: RequestBatch, items_BK: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return how much each candidate is worth showing, higher is better.

        Args:
            requests: `B` requests.
            items_BK: Catalogue numbers, `NO_ITEM` where there is none.

        Returns:
            float32 `[B, K]`, `-inf` where there is no item.
        """
        ...


class Snapshots(Protocol):
    """Item features over time: `features.values.ItemSnapshots`."""

    def at(self, items_n: npt.NDArray[np.int64], times_n: npt.NDArray[np.int64]) -> Columns:
        """Return the features of items as known at times; all moments of a day get those of its midnight."""
        ...


@runtime_checkable
class FeatureFedRanker(Ranker, Protocol):
    """A ranker that looks at item features, which change between two releases."""

    def with_item_features(self, item_features: Columns) -> Ranker:
        """Return this ranker with other item features; it stays as it is.

        Args:
            item_features: `N` rows in catalogue order: the item features of `features.definitions` by their names.
        """
        ...


@runtime_checkable
class RetrospectiveRanker(Ranker, Protocol):
    """A ranker that can answer requests of the past with what was known of items then."""

    def with_snapshots(self, snapshots: Snapshots) -> Ranker:
        """Return this ranker with the item features of each request's own moment; it stays as it is.

        Args:
            snapshots: Of the items in catalogue order.
        """
        ...
