"""Histories and candidates as the ranker attends to them, in training and in serving.

Legend: `B` requests, `N` items of the catalogue, `E` history entries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from features.columns import Columns
from kernels.jagged import columns, concat_ranges, row_numbers
from models.genrec.data import gap_buckets
from models.inputs.items import CATEGORY
from models.ranker.interest import NO_CATEGORY, Entries
from models.ranker.model import History
from models.recommend.interface import RequestBatch

Ints = npt.NDArray[np.int64]


def deepest_categories(items: Columns) -> Ints:
    """Return a number for the deepest category of each item, `NO_CATEGORY` without one."""
    categories = items.ids[CATEGORY]
    numbers_N = np.full(items.rows, NO_CATEGORY, dtype=np.int64)
    there = np.diff(categories.offsets) > 0
    _, numbers_N[there] = np.unique(categories.hashes[categories.offsets[1:][there] - 1], return_inverse=True)
    return numbers_N


def entries(lengths_B: Ints, category: Ints) -> Entries:
    """Return jagged entries with `lengths_B` of each request."""
    return Entries(
        request=torch.from_numpy(row_numbers(lengths_B)),
        column=torch.from_numpy(columns(lengths_B)),
        category=torch.from_numpy(category),
        lengths_B=torch.from_numpy(lengths_B),
    )


def history_of(requests: RequestBatch, category_N: Ints, max_history: int) -> tuple[History, Ints]:
    """Return the newest `max_history` entries of each request; their `items` are places among the distinct items.

    Returns:
        The history, and those distinct items.
    """
    lengths_B = np.minimum(np.diff(requests.history_offsets), max_history)
    index_E = concat_ranges(requests.history_offsets[1:] - lengths_B, lengths_B)
    items_E = requests.history_items[index_E]
    distinct, place_E = np.unique(items_E, return_inverse=True)
    gaps_E = gap_buckets(np.repeat(requests.times_B, lengths_B) - requests.history_times[index_E])
    history = History(
        entries=entries(lengths_B, category_N[items_E]),
        items=torch.from_numpy(place_E.reshape(-1)),
        events=torch.from_numpy(requests.history_events[index_E].astype(np.int64)),
        gaps=torch.from_numpy(gaps_E),
    )
    return history, distinct
