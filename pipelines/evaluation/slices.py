"""Parts of the cases that are reported apart: by popularity of the target, by length of the history.

Legend: `B` cases, `N` items, `J` relevant items of all cases.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from models.recommend.requests import EvaluationCases

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_HISTORY_EDGES: tuple[int, ...] = (0, 1, 5, 10, 50)
"""Smallest history length of each bucket; the last one is open."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """Some cases, with those of their relevant items that belong to the slice.

    Attributes:
        name: Key in the report.
        rows: Case numbers.
        relevant_items, relevant_offsets: Jagged by `rows`; at least one item each.
    """

    name: str
    rows: Ints
    relevant_items: Ints
    relevant_offsets: Ints


def item_groups(popularity_N: npt.NDArray[np.floating], head_share: float) -> dict[str, Bools]:
    """Split the catalogue into `head`, `tail` and `new` items.

    `new` items have no positive training event. Of the `n` others, the `ceil(head_share * n)` most popular are the
    `head` (ties by item number), the rest is the `tail`.

    Example:
        >>> groups = item_groups(np.array([1.0, 0.0, 7.0, 2.0]), head_share=0.5)
        >>> {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()}
        {'head': [2, 3], 'tail': [0], 'new': [1]}
    """
    new_N = popularity_N <= 0
    head_N = np.zeros(len(popularity_N), dtype=bool)
    size = math.ceil(head_share * int((~new_N).sum()))
    head_N[np.argsort(-popularity_N, kind="stable")[:size]] = True
    return {"head": head_N, "tail": ~head_N & ~new_N, "new": new_N}


def slices_of(cases: EvaluationCases, popularity_N: npt.NDArray[np.floating], head_share: float) -> list[Slice]:
    """Return the slices that have a case: by target and by history length.

    In `head`, `tail` and `new` a case counts its relevant items of that group only, and is left out where it has none;
    `history_0`, `history_1_4`, ... hold the cases whose request has so many history items.
    """
    slices = [_by_item(cases, name, mask_N) for name, mask_N in item_groups(popularity_N, head_share).items()]
    lengths_B = np.diff(cases.requests.history_offsets)
    bucket_B = np.searchsorted(_HISTORY_EDGES, lengths_B, side="right") - 1
    for bucket, name in enumerate(_bucket_names()):
        rows = np.flatnonzero(bucket_B == bucket)
        within = cases.take(rows)
        slices.append(
            Slice(
                name=name,
                rows=rows,
                relevant_items=within.relevant_items,
                relevant_offsets=within.relevant_offsets,
            )
        )
    return [part for part in slices if len(part.rows)]


def _by_item(cases: EvaluationCases, name: str, mask_N: Bools) -> Slice:
    inside_J = mask_N[cases.relevant_items]
    before_J = np.concatenate([[0], np.cumsum(inside_J)])
    counts_B = np.diff(before_J[cases.relevant_offsets])
    rows = np.flatnonzero(counts_B)
    offsets = np.concatenate([[0], np.cumsum(counts_B[rows])])
    return Slice(name=name, rows=rows, relevant_items=cases.relevant_items[inside_J], relevant_offsets=offsets)


def _bucket_names() -> list[str]:
    names = []
    for low, high in zip(_HISTORY_EDGES, (*_HISTORY_EDGES[1:], None), strict=True):
        last = "or_more" if high is None else str(high - 1)
        names.append(f"history_{low}" if last == str(low) else f"history_{low}_{last}")
    return names
