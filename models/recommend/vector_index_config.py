"""Configuration of the index over item vectors."""

from __future__ import annotations

import dataclasses

FLAT, HNSW, IVF_PQ = "flat", "hnsw", "ivf_pq"
KINDS = (FLAT, HNSW, IVF_PQ)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How item vectors are searched: exactly, over a graph, or compressed in lists."""

    kind: str = FLAT
    """`flat` compares with every item and is exact: right up to about 100,000 items. `hnsw` walks a graph of
    neighbours: fast, holds the vectors and `8 x hnsw_m` more bytes per item, slow to build. `ivf_pq` looks into some
    lists of compressed vectors: `pq_bytes` + 8 bytes per item, scores are approximate."""
    hnsw_m: int = 32
    """HNSW: neighbours of an item in the graph; more find more, and take memory and time."""
    ef_construction: int = 80
    """HNSW: neighbours looked at while an item is put in."""
    ef_search: int = 128
    """HNSW: neighbours kept while searching; never fewer than are asked for."""
    lists: int | None = None
    """IVF-PQ: number of lists; null takes 4 x sqrt(items), at most items / 39."""
    probes: int = 16
    """IVF-PQ: lists looked into."""
    pq_bytes: int = 32
    """IVF-PQ: bytes that a vector is compressed to; divides its width."""
    seed: int = 0
    """Of the clusterings of IVF-PQ."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        if self.kind not in KINDS:
            mistakes.append(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.lists is not None and self.lists < 1:
            mistakes.append(f"lists: expected at least 1 (or null), got {self.lists}")
        if mistakes:
            raise ValueError("; ".join(mistakes))

    def lists_for(self, items: int) -> int:
        """Return the number of lists for so many items.

        Example:
            >>> IndexConfig().lists_for(100_000), IndexConfig().lists_for(1_000), IndexConfig(lists=7).lists_for(1_000)
            (1264, 25, 7)
        """
        return self.lists if self.lists is not None else max(1, min(int(4 * items**0.5), items // 39))


_AT_LEAST = {"hnsw_m": 2, "ef_construction": 1, "ef_search": 1, "probes": 1, "pq_bytes": 1, "seed": 0}
