"""Evaluation cases: for every page of a split, the request that could have been made at its moment and what was liked.

Legend: `R` rows of `sequences`, `P` pages, `X` page entries (events), `B` cases, `J` relevant items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.schemas import HISTORY_CODES, NO_POSITIVE, NO_SEMANTIC_ID, POSITIVE_CODES, SEEN, SPLITS
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from kernels.jagged import concat_ranges, offsets_from_lengths, row_numbers
from models.recommend.interface import RequestBatch
from models.recommend.known import columns_of_pages

Ints = npt.NDArray[np.int64]
_ROWS = 16_384
"""Rows of `sequences` that are flattened at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationCases:
    """Pages to be predicted.

    Attributes:
        requests: `B` requests, at the time of each page, in order of user, then time.
        relevant_items: `J` distinct item numbers per case: the page's items with a click or more.
        relevant_offsets: `B + 1` offsets.
        users_B: A number per user, for resampling by user.
        page_ids: `B` ids.
        split: The split the pages come from.
        exclude_seen: Whether what the user had before (positive or disliked) is excluded, and is no target either.
        order_only: Whether the data set's times are only an order.
        dataset: Its name.
        left_out: `pages.<reason>`, `items.<reason>` -> what of the split is no case or no target:
            `no_positive`, `no_semantic_id`, `seen`.
    """

    requests: RequestBatch
    relevant_items: Ints
    relevant_offsets: Ints
    users_B: Ints
    page_ids: list[str]
    split: str
    exclude_seen: bool
    order_only: bool
    dataset: str
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.page_ids)

    def take(self, rows: npt.NDArray[np.integer]) -> EvaluationCases:
        """Return the given cases in the given order; `left_out` stays that of the split."""
        relevant, relevant_offsets = _gather(self.relevant_offsets[rows], self.relevant_offsets[rows + 1])
        return dataclasses.replace(
            self,
            requests=self.requests.take(rows),
            relevant_items=self.relevant_items[relevant],
            relevant_offsets=relevant_offsets,
            users_B=self.users_B[rows],
            page_ids=[self.page_ids[row] for row in rows],
        )

    def batches(self, size: int) -> Iterator[EvaluationCases]:
        """Yield all cases in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


def requests_from_sequences(
    workspace: Workspace,
    catalogue: Catalogue,
    split: str,
    *,
    max_history: int,
    exclude_seen: bool = False,
    every_page: bool = False,
    columns: bool = True,
) -> EvaluationCases:
    """Return a case for every page of `split` with a positive item that the catalogue knows.

    Args:
        workspace: Holds the table `sequences`, perhaps `page_features`, `clean_users` and `pages`.
        catalogue: Numbers the items.
        split: One of `SPLITS`; histories reach back through the earlier splits and pages.
        max_history: Entries kept per request, the newest.
        exclude_seen: Whether the user's earlier items are excluded from answers and targets.
        every_page: Whether pages without a relevant item are cases, too: for models of what was shown and not liked.
        columns: Whether requests carry what is known beside histories (`models.recommend.known`).

    Raises:
        ValueError: The split is unknown or has no case.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    table = workspace.table("sequences")
    notes = table.manifest().notes
    sequences = table.read(filter=pc.field("split").isin(SPLITS[: SPLITS.index(split) + 1]))
    cases = cases_from_table(
        sequences,
        catalogue,
        split,
        max_history=max_history,
        exclude_seen=exclude_seen,
        every_page=every_page,
        order_only=bool(notes.get("order_only", False)),
        dataset=str(notes.get("dataset", "unnamed")),
    )
    if not columns:
        return cases
    user_ids = pa.array(cases.requests.user_ids, pa.string())
    known = columns_of_pages(workspace, pa.array(cases.page_ids, pa.string()), user_ids)
    return dataclasses.replace(cases, requests=dataclasses.replace(cases.requests, columns=known))


def cases_from_table(
    sequences: pa.Table,
    catalogue: Catalogue,
    split: str,
    *,
    max_history: int,
    exclude_seen: bool = False,
    every_page: bool = False,
    order_only: bool = False,
    dataset: str = "unnamed",
) -> EvaluationCases:
    """`requests_from_sequences` on rows of `sequences` in memory (of the split and the earlier ones)."""
    if max_history < 1:
        raise ValueError(f"max_history: expected at least 1, got {max_history}")
    of_split = pc.equal(sequences.column("split"), split)
    users = pc.unique(sequences.filter(of_split).column("user_id")).sort()
    log = _flatten(sequences.filter(pc.is_in(sequences.column("user_id"), value_set=users)), catalogue, users, split)
    history = _History([_entries(log)])
    relevant, left_out = _relevant_entries(log, history, len(catalogue), exclude_seen)
    if not len(relevant):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "none"
        raise ValueError(
            f"no page of split {split!r} has a click, cart or purchase of a catalogue item that counts as a target "
            f"(left out: {reasons}): expected at least one; add events or items, change batch.split, or set "
            "evaluate.exclude_seen=false"
        )
    pages_B = np.flatnonzero(log.in_split_P) if every_page else np.unique(log.page_X[relevant])
    relevant_offsets = np.append(np.searchsorted(log.page_X[relevant], pages_B), len(relevant))
    order_B = np.lexsort((pages_B, log.time_P[pages_B], log.user_P[pages_B]))
    relevant_index, relevant_offsets = _gather(relevant_offsets[order_B], relevant_offsets[order_B + 1])
    pages_B = pages_B[order_B]
    return EvaluationCases(
        requests=_requests(log, history, pages_B, users, len(catalogue), max_history, exclude_seen),
        relevant_items=log.item_X[relevant[relevant_index]],
        relevant_offsets=relevant_offsets,
        users_B=log.user_P[pages_B],
        page_ids=log.page_ids.take(pa.array(pages_B)).to_pylist(),
        split=split,
        exclude_seen=exclude_seen,
        order_only=order_only,
        dataset=dataset,
        left_out=left_out,
    )


class PastRequests:
    """Histories of all users, from which requests of any moment of the past can be made.

    Impressions are dropped while reading; a history entry takes 33 bytes, a user their id.

    Args:
        sequences: Rows of `sequences`, all splits.
        catalogue: Numbers the items.
    """

    def __init__(self, sequences: ds.Dataset, catalogue: Catalogue) -> None:
        self._users = pc.unique(sequences.to_table(columns=["user_id"]).column("user_id")).sort()
        parts = (pa.Table.from_batches([batch]) for batch in sequences.to_batches(batch_size=_ROWS, batch_readahead=1))
        self._history = _History(
            [_entries(_flatten(part, catalogue, self._users, SPLITS[-1])) for part in parts if part.num_rows]
        )

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return int(self._users.nbytes) + self._history.nbytes

    def at(self, user_ids: pa.Array, times_B: Ints, max_history: int) -> RequestBatch:
        """Return what users might have asked at moments: their histories lie strictly before.

        Args:
            user_ids: `B` ids; somebody unknown has no history.
            times_B: Milliseconds since 1970 UTC.
            max_history: Entries kept per request, the newest.
        """
        users_B = np.asarray(pc.fill_null(pc.index_in(user_ids, value_set=self._users), -1), dtype=np.int64)
        starts_B, ends_B = self._history.before(users_B, times_B)
        ends_B = np.where(users_B >= 0, ends_B, starts_B)
        index, offsets = _gather(np.maximum(starts_B, ends_B - max_history), ends_B)
        return RequestBatch(
            user_ids=user_ids.to_pylist(),
            times_B=times_B,
            history_items=self._history.items[index],
            history_events=self._history.events[index],
            history_times=self._history.times[index],
            history_offsets=offsets,
            excluded_items=np.zeros(0, dtype=np.int64),
            excluded_offsets=np.zeros(len(times_B) + 1, dtype=np.int64),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Log:
    """`sequences`, flattened to pages and entries; users are numbered in order of their ids."""

    page_ids: pa.ChunkedArray
    user_P: Ints
    time_P: Ints
    split_rank_P: Ints
    in_split_P: npt.NDArray[np.bool_]
    page_X: Ints
    item_X: Ints
    event_X: npt.NDArray[np.int8]
    time_X: Ints


def _flatten(sequences: pa.Table, catalogue: Catalogue, users: pa.Array, split: str) -> _Log:
    pages_R = np.asarray(pc.list_value_length(sequences.column("page_ids")), dtype=np.int64)
    split_rank_P = np.repeat(_index(sequences.column("split"), pa.array(SPLITS)), pages_R)
    time_P = _flat(sequences, "page_times")
    page_X = row_numbers(_flat(sequences, "page_lengths"))
    items = pc.list_flatten(sequences.column("items"))
    if len(page_X) != len(items):
        raise ValueError(f"sequences: expected sum(page_lengths) = number of items, got {len(page_X)} and {len(items)}")
    return _Log(
        page_ids=pc.list_flatten(sequences.column("page_ids")),
        user_P=np.repeat(_index(sequences.column("user_id"), users), pages_R),
        time_P=time_P,
        split_rank_P=split_rank_P,
        in_split_P=split_rank_P == SPLITS.index(split),
        page_X=page_X,
        item_X=catalogue.numbers(items),
        event_X=_flat(sequences, "events").astype(np.int8),
        # An event belongs to the past no sooner than its page was shown.
        time_X=np.maximum(_flat(sequences, "times"), time_P[page_X]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entries:
    """History entries in the order of the log."""

    users: Ints
    items: Ints
    events: npt.NDArray[np.int8]
    times: Ints
    page_times: Ints
    split_ranks: Ints


def _entries(log: _Log) -> _Entries:
    rows = np.flatnonzero(np.isin(log.event_X, HISTORY_CODES) & (log.item_X >= 0))
    pages = log.page_X[rows]
    return _Entries(
        users=log.user_P[pages],
        items=log.item_X[rows],
        events=log.event_X[rows],
        times=log.time_X[rows],
        page_times=log.time_P[pages],
        split_ranks=log.split_rank_P[pages],
    )


class _History:
    """All history entries in order of user, then time, with a search for "this user's, strictly before this moment"."""

    def __init__(self, parts: Sequence[_Entries]) -> None:
        none = np.zeros(0, dtype=np.int64)

        def joined(name: str) -> Ints:
            return np.concatenate([none, *(getattr(part, name) for part in parts)])

        users, times = joined("users"), joined("times")
        # stable: what is equal stays in the order of the log
        order = np.lexsort((joined("split_ranks"), joined("page_times"), times, users))
        self.items = joined("items")[order]
        self.events = joined("events").astype(np.int8)[order]
        self.times = times[order]
        self._distinct_times = np.unique(times)
        self._keys = self._key(users[order], self.times)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(one.nbytes for one in (self.items, self.events, self.times, self._distinct_times, self._keys))

    def before(self, users: Ints, times: Ints) -> tuple[Ints, Ints]:
        """Return start and end of each user's entries strictly before each time."""
        starts = np.searchsorted(self._keys, users * self._span)
        ends = np.searchsorted(self._keys, self._key(users, times))
        return starts, ends

    @property
    def _span(self) -> int:
        return len(self._distinct_times) + 1

    def _key(self, users: Ints, times: Ints) -> Ints:
        # Ranks of times instead of times: user and time fit into one integer whatever the times are.
        return users * self._span + np.searchsorted(self._distinct_times, times)


def _relevant_entries(log: _Log, history: _History, items: int, exclude_seen: bool) -> tuple[Ints, dict[str, int]]:
    """Return the entries that are targets, one per (page, item), in order of page; and what was left out and why."""
    positive = np.flatnonzero(log.in_split_P[log.page_X] & np.isin(log.event_X, POSITIVE_CODES))
    known = positive[log.item_X[positive] >= 0]
    _, first = np.unique(log.page_X[known] * items + log.item_X[known], return_index=True)
    relevant = known[first]
    fresh = relevant
    if exclude_seen:
        pages = np.unique(log.page_X[relevant])
        seen = _seen_keys(history, log.user_P[pages], log.time_P[pages], pages, items)
        fresh = relevant[~np.isin(log.page_X[relevant] * items + log.item_X[relevant], seen)]
    pages_left = [int(log.in_split_P.sum())]
    pages_left += [len(np.unique(log.page_X[entries])) for entries in (positive, known, fresh)]
    left_out = {
        f"pages.{NO_POSITIVE}": pages_left[0] - pages_left[1],
        f"pages.{NO_SEMANTIC_ID}": pages_left[1] - pages_left[2],
        f"pages.{SEEN}": pages_left[2] - pages_left[3],
        f"items.{NO_SEMANTIC_ID}": len(positive) - len(known),
        f"items.{SEEN}": len(relevant) - len(fresh),
    }
    return fresh, left_out


def _seen_keys(history: _History, users: Ints, times: Ints, rows: Ints, items: int) -> Ints:
    """Return the sorted distinct `row * items + item` of everything each user had before each time."""
    index, offsets = _gather(*history.before(users, times))
    return np.unique(np.repeat(rows, np.diff(offsets)) * items + history.items[index])


def _requests(
    log: _Log, history: _History, pages_B: Ints, users: pa.Array, items: int, max_history: int, exclude_seen: bool
) -> RequestBatch:
    users_B, times_B = log.user_P[pages_B], log.time_P[pages_B]
    starts_B, ends_B = history.before(users_B, times_B)
    index, offsets = _gather(np.maximum(starts_B, ends_B - max_history), ends_B)
    rows_B = np.arange(len(pages_B))
    seen = _seen_keys(history, users_B, times_B, rows_B, items) if exclude_seen else np.zeros(0, dtype=np.int64)
    return RequestBatch(
        user_ids=users.take(pa.array(users_B)).to_pylist(),
        times_B=times_B,
        history_items=history.items[index],
        history_events=history.events[index],
        history_times=history.times[index],
        history_offsets=offsets,
        excluded_items=seen % items,
        excluded_offsets=np.searchsorted(seen, np.arange(len(pages_B) + 1) * items),
    )


def _flat(sequences: pa.Table, column: str) -> Ints:
    return np.asarray(pc.cast(pc.list_flatten(sequences.column(column)), pa.int64()))


def _index(values: pa.ChunkedArray, value_set: pa.Array) -> Ints:
    return np.asarray(pc.index_in(values, value_set=value_set), dtype=np.int64)


def _gather(starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Return the indices `starts[0] .. ends[0] - 1, starts[1] .. ends[1] - 1, ...` and the offsets of each range."""
    return concat_ranges(starts, ends - starts), offsets_from_lengths(ends - starts)
