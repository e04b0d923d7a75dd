"""What an index costs and what it misses: kinds of index beside the exact one.

Legend: `N` items, `D` width, `Q` queries, `K` items wanted.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from models.recommend.eligibility import Ints
from models.recommend.interface import NO_ITEM
from models.recommend.vector_answers import Floats
from models.recommend.vector_index import VectorIndex, one_thread
from models.recommend.vector_index_config import FLAT, HNSW, IndexConfig

_SAME = 1e-5
"""Scores nearer than this count as equal: which of two equal items is found says nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One index."""

    name: str
    """Kind and sizes."""
    recall: float
    """Share of the `k` best items that it finds; one as good as the k-th counts."""
    build_s: float
    bytes: int
    """As written to disk, which is also what it takes in memory."""
    p50_ms: float
    p99_ms: float
    """Time of one query alone, on one thread."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexReport:
    """Indexes over the same vectors."""

    items: int
    width: int
    queries: int
    k: int
    rows: tuple[IndexRow, ...]

    def lines(self) -> list[str]:
        """Return the report as lines for the terminal."""
        header = f"{'index':<28} {f'recall@{self.k}':>10} {'build s':>8} {'MB':>8} {'p50 ms':>8} {'p99 ms':>8}"
        return [
            f"{self.items:,} items of width {self.width}, {self.queries:,} queries one by one on one thread",
            header,
            *(
                f"{row.name:<28} {row.recall:>10.3f} {row.build_s:>8.2f} {row.bytes / 1e6:>8.1f} {row.p50_ms:>8.3f} "
                f"{row.p99_ms:>8.3f}"
                for row in self.rows
            ),
        ]


def compare_indexes(vectors_ND: Floats, queries_QD: Floats, configs: Sequence[IndexConfig], k: int) -> IndexReport:
    """Build an index of each configuration and measure it against exact search.

    Args:
        vectors_ND: float32 `[N, D]`, rows of length 1.
        queries_QD: float32 `[Q, D]`.
        configs: What to build.
        k: Length of the lists compared, at most `N`.

    Raises:
        ValueError: There is no query, or a configuration does not fit the vectors.
    """
    if not len(queries_QD) or not 1 <= k <= len(vectors_ND):
        raise ValueError(f"expected queries and 1 <= k <= {len(vectors_ND)}, got {len(queries_QD)} queries and k = {k}")
    with one_thread():
        _, exact_QK = VectorIndex.build(vectors_ND, IndexConfig(kind=FLAT)).search(queries_QD, k)
        rows = tuple(_measure(vectors_ND, queries_QD, config, exact_QK) for config in configs)
    items, width = vectors_ND.shape
    return IndexReport(items=items, width=width, queries=len(queries_QD), k=k, rows=rows)


def _measure(vectors_ND: Floats, queries_QD: Floats, config: IndexConfig, exact_QK: Floats) -> IndexRow:
    started = time.perf_counter()
    index = VectorIndex.build(vectors_ND, config)
    build_s = time.perf_counter() - started
    found_QK, milliseconds_Q = _one_by_one(index, queries_QD, exact_QK.shape[1])
    p50, p99 = np.percentile(milliseconds_Q, [50, 99])
    return IndexRow(
        name=_name(config, len(vectors_ND)),
        recall=_recall(vectors_ND, queries_QD, found_QK, exact_QK),
        build_s=build_s,
        bytes=len(index.to_bytes()),
        p50_ms=float(p50),
        p99_ms=float(p99),
    )


def _one_by_one(index: VectorIndex, queries_QD: Floats, k: int) -> tuple[Ints, Floats]:
    found, milliseconds = [], []
    for number in range(len(queries_QD)):
        started = time.perf_counter()
        items_1K, _ = index.search(queries_QD[number : number + 1], k)
        milliseconds.append(1000 * (time.perf_counter() - started))
        found.append(items_1K)
    return np.concatenate(found), np.array(milliseconds, dtype=np.float32)


def _recall(vectors_ND: Floats, queries_QD: Floats, found_QK: Ints, exact_QK: Floats) -> float:
    scores_QK = np.einsum("qkd,qd->qk", vectors_ND[found_QK], queries_QD)
    as_good_QK = (found_QK != NO_ITEM) & (scores_QK >= exact_QK[:, -1:] - _SAME)
    return float(as_good_QK.mean())


def _name(config: IndexConfig, items: int) -> str:
    if config.kind == FLAT:
        return FLAT
    if config.kind == HNSW:
        return f"{HNSW} m={config.hnsw_m} ef={config.ef_search}"
    return f"{config.kind} {config.lists_for(items)}/{config.probes} pq={config.pq_bytes}"
