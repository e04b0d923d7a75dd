"""Entries -> rows of the `sequences` table: one per user and split, jagged in two levels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.schemas import SEQUENCES, SPLITS, TIMESTAMP
from kernels.jagged import run_starts
from pipelines.batch.arrow import Ints
from pipelines.batch.entries import Entries


def sequences_from_entries(entries: Entries) -> pa.Table:
    """Group pages by user and split.

    Returns:
        Rows of the `sequences` table, sorted by user id, then train, validation, test.
    """
    starts = run_starts(entries.user_P, entries.split_P)
    page_offsets = np.append(starts, len(entries.user_P))
    lengths = entries.page_lengths
    entry_offsets = np.concatenate([[0], np.cumsum(lengths)])[page_offsets]
    times = pa.array(entries.time_E).cast(TIMESTAMP)
    columns = {
        "user_id": entries.pages.column("user_id").take(pa.array(starts)),
        "split": pa.array(SPLITS).take(pa.array(entries.split_P[starts])),
        "page_ids": _lists(page_offsets, entries.pages.column("request_id").combine_chunks()),
        "page_times": _lists(page_offsets, entries.pages.column("timestamp").combine_chunks()),
        "page_lengths": _lists(page_offsets, pa.array(lengths, pa.int32())),
        "items": _lists(entry_offsets, entries.items_E),
        "events": _lists(entry_offsets, pa.array(entries.code_E, pa.int8())),
        "times": _lists(entry_offsets, times),
    }
    return pa.table(columns, schema=SEQUENCES)


def _lists(offsets: Ints, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
