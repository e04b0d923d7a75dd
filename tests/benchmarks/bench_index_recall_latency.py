"""Indexes over item vectors: recall and time of one query of `hnsw` and `ivf_pq` against exact search (`flat`).

Vectors are clustered, as those of items are, and queries lie between two items. Everything runs on one thread. Flat
search must equal a matrix product and a sort.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.recommend.index_report import IndexReport, IndexRow, compare_indexes
from models.recommend.vector_index import VectorIndex, one_thread
from models.recommend.vector_index_config import IndexConfig

NAME = "index_recall_latency"
WIDTH, QUERIES, K = 64, 500, 10
CONFIGS = (
    IndexConfig(),
    IndexConfig(kind="hnsw", hnsw_m=16, ef_construction=80, ef_search=128),
    IndexConfig(kind="ivf_pq", probes=16, pq_bytes=32),
)


def run(full: bool) -> list[dict[str, Any]]:
    """Measure 10**5 vectors, or 10**4 to 10**6."""
    results = []
    for size in (10**4, 10**5, 10**6) if full else (10**5,):
        vectors_ND, queries_QD = clustered(size)
        assert_flat_is_exact(vectors_ND, queries_QD[:20])
        report = compare_indexes(vectors_ND, queries_QD, CONFIGS, K)
        print("\n".join(report.lines()))
        results += figures(report, "" if size == 10**5 else f"[{size:.0e} items]")
    return results


def clustered(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors around `sqrt(size)` centres, and queries half-way between two of one centre."""
    rng = np.random.default_rng(size)
    centres = rng.normal(size=(int(size**0.5), WIDTH)).astype(np.float32)
    centre_N = rng.zipf(1.3, size) % len(centres)
    vectors_ND = centres[centre_N]
    vectors_ND += 0.6 * rng.standard_normal((size, WIDTH), dtype=np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    order = np.argsort(centre_N, kind="stable")
    places = rng.choice(size - 1, QUERIES, replace=False)
    queries_QD = vectors_ND[order[places]] + vectors_ND[order[places + 1]]
    return vectors_ND, queries_QD / np.linalg.norm(queries_QD, axis=1, keepdims=True)


def assert_flat_is_exact(vectors_ND: np.ndarray, queries_QD: np.ndarray) -> None:
    """Raise unless flat search finds what scoring everything finds."""
    with one_thread():
        _, scores_QK = VectorIndex.build(vectors_ND, IndexConfig()).search(queries_QD, K)
    every_QN = queries_QD @ vectors_ND.T
    best_QK = -np.sort(-np.partition(every_QN, -K, axis=1)[:, -K:], axis=1)
    np.testing.assert_allclose(scores_QK, best_QK, rtol=1e-4)


def figures(report: IndexReport, suffix: str) -> list[dict[str, Any]]:
    flat, *others = report.rows
    return [result for row in others for result in (_latency(row, flat, suffix), _recall(row, flat, suffix))]


def _latency(row: IndexRow, flat: IndexRow, suffix: str) -> dict[str, Any]:
    return {
        "name": f"{NAME}{suffix}: {row.name}, p50",
        "ours": row.p50_ms,
        "peer": flat.p50_ms,
        "peer_name": "exact search (flat)",
        "unit": "ms/query",
        "ratio": flat.p50_ms / row.p50_ms,
        "better": "lower",
    }


def _recall(row: IndexRow, flat: IndexRow, suffix: str) -> dict[str, Any]:
    return {
        "name": f"{NAME}{suffix}: {row.name}, recall@{K}",
        "ours": row.recall,
        "peer": flat.recall,
        "peer_name": "exact search (flat)",
        "unit": "share",
        "ratio": row.recall / flat.recall,
        "better": "higher",
    }
