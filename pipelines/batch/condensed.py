"""What item statistics need of the training pages: positive entries user by user, of others only counts per item.

Condensed days are kept (`training_pages`, `training_counts`): once all that happened to a day's pages lies before the
split, they say the same for ever, and later runs read these few rows in place of the pages.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa

from features.schemas import EVENT_KINDS, TIMESTAMP, TRAINING_COUNTS, TRAINING_PAGES
from kernels.jagged import run_starts
from pipelines.batch.arrow import DAY_MS, milliseconds
from pipelines.batch.entries import Entries, make_entries
from pipelines.batch.split import TRAIN_CODE, Splitter
from pipelines.batch.statistics import COUNT_COLUMNS, partial_statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condensed:
    """Condensed pages.

    Attributes:
        pages: Rows of `training_pages`.
        counts: Rows of `training_counts`.
        entries: All pages, exploded.
        train: Entries of training pages.
    """

    pages: pa.Table
    counts: pa.Table
    entries: Entries
    train: int


def condense(pages: pa.Table, splitter: Splitter) -> Condensed:
    """Condense some pages, of which the split is by time.

    Args:
        pages: Rows of `pages` with at least `PAGE_COLUMNS`.
        splitter: Decides which train.
    """
    entries = make_entries(pages, splitter)
    train = entries.split_P[entries.page_E] == TRAIN_CODE
    return Condensed(
        pages=_pages(entries, np.flatnonzero(train & entries.positive)),
        counts=_counts(entries, np.flatnonzero(train & ~entries.positive)),
        entries=entries,
        train=int(train.sum()),
    )


def _pages(entries: Entries, kept: np.ndarray) -> pa.Table:
    page_E = entries.page_E[kept]
    starts = run_starts(page_E)
    offsets = pa.array(np.append(starts, len(page_E)), pa.int32())
    kinds = pa.array(EVENT_KINDS).take(pa.array(entries.code_E[kept]))
    lists = {
        "items": entries.items_E.take(pa.array(kept)),
        "events": kinds,
        "event_times": pa.array(entries.time_E[kept]).cast(TIMESTAMP),
    }
    of_pages = entries.pages.take(pa.array(page_E[starts])).combine_chunks()
    columns = {name: of_pages.column(name) for name in ("request_id", "user_id", "timestamp")}
    columns |= {name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()}
    return pa.table(columns, schema=TRAINING_PAGES)


def _counts(entries: Entries, kept: np.ndarray) -> pa.Table:
    day_E = milliseconds(entries.pages.column("timestamp"))[entries.page_E[kept]] // DAY_MS
    order = kept[np.argsort(day_E, kind="stable")]
    days = np.sort(day_E)
    bounds = [*run_starts(days), len(days)]
    parts = [TRAINING_COUNTS.empty_table()]
    for start, stop in itertools.pairwise(bounds):
        rows = order[start:stop]
        nobody = pa.table(
            {
                "user": np.zeros(len(rows), dtype=np.int64),
                "item_id": entries.items_E.take(pa.array(rows)),
                "code": entries.code_E[rows],
                "time": entries.time_E[rows],
                "positive": np.zeros(len(rows), dtype=bool),
            }
        )
        partial = partial_statistics(nobody, int(entries.time_E[rows].max()), 1.0)
        midnight = pa.array(np.full(partial.num_rows, days[start] * DAY_MS)).cast(TIMESTAMP)
        times = [pa.chunked_array(partial.column(name)).cast(TIMESTAMP) for name in ("first", "last")]
        columns = [midnight, partial.column("item_id"), *(partial.column(name) for name in COUNT_COLUMNS), *times]
        parts.append(pa.table(columns, schema=TRAINING_COUNTS))
    return pa.concat_tables(parts)


def merged_counts(counts: pa.Table) -> pa.Table:
    """Return one row per day and item, sorted."""
    sums = [*((name, "sum") for name in COUNT_COLUMNS), ("first_time", "min"), ("last_time", "max")]
    keys = ["timestamp", "item_id"]
    merged = counts.group_by(keys, use_threads=False).aggregate(sums)
    return (
        merged.rename_columns(TRAINING_COUNTS.names).cast(TRAINING_COUNTS).sort_by([(key, "ascending") for key in keys])
    )


def as_partial(counts: pa.Table) -> pa.Table:
    """Return `training_counts` as `partial_statistics` returns its sums."""
    nothing = pa.array(np.zeros(counts.num_rows, dtype=np.int64))
    times = [counts.column(name).cast(pa.int64()) for name in ("first_time", "last_time")]
    columns = [counts.column("item_id"), *(counts.column(name) for name in COUNT_COLUMNS)]
    names = ["item_id", *COUNT_COLUMNS, "users", "popularity", "recent", "first", "last"]
    return pa.table([*columns, nothing, nothing, nothing, *times], names=names)
