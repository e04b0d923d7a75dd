"""Training data of GenRec: user histories and the pages that answer them, as jagged arrays, and windows over them.

Legend: `U` users, `H` history items of all users, `P` pages, `M` response items of all pages, `W` windows.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import schemas
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from kernels.jagged import columns, concat_ranges, offsets_from_lengths, row_numbers
from models.genrec.config import GenRecConfig

IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceData:
    """Histories and pages of all users, jagged by user.

    A page's prompt is the first `visible_P[p]` items of its user's history: exactly those strictly before its time.

    Attributes:
        history_items, history_events, history_times: Positive events, oldest first, `H` entries.
        history_offsets: `U + 1` offsets.
        page_users: User of each page, not decreasing.
        page_times: Milliseconds, not decreasing within a user.
        visible_P: Number of the user's history items strictly before the page.
        response_items, response_events: Catalogue numbers and event codes in response order, `M` entries.
        response_ties: Positive entries of a page with the same event and time share a number: nothing says which of
            them came first (the lines of an invoice). Numbers do not decrease.
        response_offsets: `P + 1` offsets.
        dropped: Counts of what was left out, by reason.
        user_vectors: float32 `[P, user_prefix]`, the page's user as of just before it; None without `user_prefix`.
    """

    history_items: IntArray
    history_events: IntArray
    history_times: IntArray
    history_offsets: IntArray
    page_users: IntArray
    page_times: IntArray
    visible_P: IntArray
    response_items: IntArray
    response_events: IntArray
    response_ties: IntArray
    response_offsets: IntArray
    dropped: dict[str, int]
    user_vectors: npt.NDArray[np.float32] | None = None

    @property
    def pages(self) -> int:
        """Number of pages `P`."""
        return len(self.page_users)


def load_sequences(workspace: Workspace, catalogue: Catalogue, config: GenRecConfig) -> SequenceData:
    """Read the training rows of the `sequences` table and join semantic IDs; no Python loop over rows.

    Raises:
        ValueError: No page with a positive item of the catalogue remains.
    """
    table = workspace.table("sequences").read(filter=pc.field("split") == schemas.TRAIN)
    return sequences_from_table(table.sort_by("user_id"), catalogue, config)


def sequences_from_table(table: pa.Table, catalogue: Catalogue, config: GenRecConfig) -> SequenceData:
    """Turn rows of `features.schemas.SEQUENCES` (one per user) into `SequenceData`; see `load_sequences`."""
    table = table.combine_chunks()
    page_counts = _lengths(table, "page_times")
    page_lengths = _flat(table, "page_lengths").astype(np.int64)
    page_users = row_numbers(page_counts)
    page_times = _flat(table, "page_times")
    pages = row_numbers(page_lengths)
    events = _flat(table, "events").astype(np.int64)
    times = _flat(table, "times")
    items = catalogue.numbers(pc.list_flatten(table.column("items")))

    known = items >= 0
    positive = np.isin(events, schemas.POSITIVE_CODES)
    target_kinds = positive | ((events == schemas.EVENT_CODE[schemas.IMPRESSION]) & (config.impression_weight > 0))
    has_positive = np.zeros(len(page_lengths), dtype=bool)
    has_positive[pages[known & positive]] = True

    history = np.flatnonzero(known & positive)
    history = history[np.lexsort((history, times[history], page_users[pages[history]]))]
    history_users = page_users[pages[history]]
    history_offsets = offsets_from_lengths(np.bincount(history_users, minlength=table.num_rows))

    response = np.flatnonzero(known & target_kinds & has_positive[pages])
    kept_lengths = np.bincount(pages[response], minlength=len(page_lengths))
    kept_pages = np.flatnonzero(kept_lengths)
    if not len(kept_pages):
        raise ValueError(
            f"no training page has a positive item with a semantic ID ({len(page_lengths)} pages, {len(items)} items, "
            f"{int(known.sum())} of them in the catalogue); check that items and events use the same item ids"
        )
    return SequenceData(
        history_items=items[history],
        history_events=events[history],
        history_times=times[history],
        history_offsets=history_offsets,
        page_users=page_users[kept_pages],
        page_times=page_times[kept_pages],
        visible_P=_visible(times[history], history_users, page_times[kept_pages], page_users[kept_pages]),
        response_items=items[response],
        response_events=events[response],
        response_ties=_ties(pages[response], events[response], times[response]),
        response_offsets=offsets_from_lengths(kept_lengths[kept_pages]),
        dropped={
            schemas.NO_SEMANTIC_ID: int((~known).sum()),
            "page_without_positive": int(len(page_lengths) - has_positive.sum()),
        },
    )


def draw_responses(data: SequenceData, config: GenRecConfig, rng: np.random.Generator) -> SequenceData:
    """Return what one epoch trains on: ties in random order, at most `page_items` a page, one a page if point-wise.

    In a fixed order page-wise training would show the first slot, the one that recommends, always the same one of
    many equally good items. The number of pages and their lengths do not depend on `rng`.
    """
    lengths = np.diff(data.response_offsets)
    order = np.lexsort((rng.random(len(data.response_ties)), data.response_ties))
    kept = order[columns(lengths) < config.page_items]
    drawn = dataclasses.replace(
        data,
        response_items=data.response_items[kept],
        response_events=data.response_events[kept],
        response_ties=data.response_ties[kept],
        response_offsets=offsets_from_lengths(np.minimum(lengths, config.page_items)),
    )
    return split_positives(drawn) if config.objective == "point" else drawn


def draw_candidates(
    targets_M: IntArray, catalogue: Catalogue, config: GenRecConfig, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Return the items that an item head tells apart in a batch, `[C]`, and which of them each target is, `[M]`."""
    if not config.item_head:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if len(catalogue) <= config.item_negatives:
        return np.arange(len(catalogue)), targets_M
    drawn = rng.integers(len(catalogue), size=config.item_negatives)
    candidates_C, place = np.unique(np.concatenate([targets_M, drawn]), return_inverse=True)
    return candidates_C, place[: len(targets_M)]


def split_positives(data: SequenceData) -> SequenceData:
    """Make one page of each positive item (point-wise NTP): the same history, one target each."""
    kept = np.flatnonzero(np.isin(data.response_events, schemas.POSITIVE_CODES))
    pages = row_numbers(np.diff(data.response_offsets))[kept]
    return dataclasses.replace(
        data,
        page_users=data.page_users[pages],
        page_times=data.page_times[pages],
        visible_P=data.visible_P[pages],
        response_items=data.response_items[kept],
        response_events=data.response_events[kept],
        response_ties=np.arange(len(kept), dtype=np.int64),
        response_offsets=np.arange(len(kept) + 1, dtype=np.int64),
        user_vectors=None if data.user_vectors is None else data.user_vectors[pages],
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Training rows: a stretch of one user's history and the pages answered from it.

    Attributes:
        history_start_W, history_end_W: Range in `SequenceData.history_items`.
        page_order: Page numbers, grouped by window.
        page_offsets: `W + 1` offsets into `page_order`.
        tokens_W: Length of each row in tokens.
    """

    history_start_W: IntArray
    history_end_W: IntArray
    page_order: IntArray
    page_offsets: IntArray
    tokens_W: IntArray

    def __len__(self) -> int:
        return len(self.tokens_W)


def make_windows(data: SequenceData, config: GenRecConfig, levels: int, max_response_tokens: int = 512) -> Windows:
    """Cut every user into windows so that no prompt exceeds `max_history` and no row grows without bound.

    A page that sees at most `max_history` items belongs to the window that starts at the user's first item; later
    pages belong to windows that start a multiple of half of `max_history` later, hence always see more than half of it.
    """
    stride = max(1, config.max_history // 2)
    late = np.maximum(data.visible_P - config.max_history, 0)
    start = (late + stride - 1) // stride * stride
    tokens = np.diff(data.response_offsets) * levels
    # Pages are sorted by user and time, so equal (user, start) are neighbours.
    new_group = np.ones(data.pages, dtype=bool)
    new_group[1:] = (np.diff(data.page_users) != 0) | (np.diff(start) != 0)
    group = np.cumsum(new_group) - 1
    before = np.cumsum(tokens) - tokens
    part = (before - before[new_group][group]) // max_response_tokens
    new_window = new_group.copy()
    new_window[1:] |= np.diff(part) != 0
    firsts = np.flatnonzero(new_window)
    counts = np.diff(np.append(firsts, data.pages))
    history_base = data.history_offsets[data.page_users[firsts]]
    history_start = history_base + start[firsts]
    history_end = history_base + np.maximum.reduceat(data.visible_P, firsts)
    history_tokens = (history_end - history_start) * (1 if config.merge_history else levels)
    return Windows(
        history_start_W=history_start,
        history_end_W=history_end,
        page_order=np.arange(data.pages, dtype=np.int64),
        page_offsets=offsets_from_lengths(counts),
        tokens_W=1 + history_tokens + np.add.reduceat(tokens, firsts),
    )


def gap_buckets(gaps_ms: IntArray) -> IntArray:
    """Return `floor(log2(1 + seconds))` of time gaps, at most 31; negative gaps count as zero.

    Example:
        >>> gap_buckets(np.array([0, 999, 1_000, 3_000, 86_400_000])).tolist()
        [0, 0, 1, 2, 16]
    """
    seconds = np.maximum(gaps_ms, 0) // 1000
    return np.minimum(np.floor(np.log2(1.0 + seconds)).astype(np.int64), GAP_BUCKETS - 1)


GAP_BUCKETS = 32


def _ties(pages: IntArray, events: IntArray, times: IntArray) -> IntArray:
    """Give each run of positive entries that nothing orders one number, every other entry a number of its own."""
    starts = np.ones(len(pages), dtype=bool)
    starts[1:] = (np.diff(pages) != 0) | (np.diff(events) != 0) | (np.diff(times) != 0)
    starts |= ~np.isin(events, schemas.POSITIVE_CODES)
    return np.cumsum(starts) - 1


def _visible(history_times: IntArray, history_users: IntArray, page_times: IntArray, page_users: IntArray) -> IntArray:
    """Count, per page, the history items of its user strictly before it (both sides sorted by user, then time)."""
    users = np.concatenate([history_users, page_users])
    times = np.concatenate([history_times, page_times])
    is_history = np.arange(len(users)) < len(history_users)
    # At equal times pages sort first, so an item at the page's own time is not counted.
    order = np.lexsort((is_history, times, users))
    seen = np.cumsum(is_history[order])
    counts = np.empty(len(users), dtype=np.int64)
    counts[order] = seen
    base = np.searchsorted(history_users, page_users)
    return counts[len(history_users) :] - base


def _flat(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    values = pc.list_flatten(table.column(name))
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    return np.asarray(values)


def _lengths(table: pa.Table, name: str) -> IntArray:
    return np.asarray(pc.list_value_length(table.column(name)), dtype=np.int64)


def window_pages(windows: Windows, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """Return the pages of the chosen windows, concatenated, and how many each window has."""
    counts = np.diff(windows.page_offsets)[chosen]
    return windows.page_order[concat_ranges(windows.page_offsets[chosen], counts)], counts
