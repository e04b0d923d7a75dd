"""An index over item vectors: the items whose vectors are nearest to a request's, by inner product.

What is found for a request depends on the index and on this request alone, never on what is asked beside it: the pages
of a batch job equal those of the service.
Legend: `N` items, `D` width, `B` requests, `K` items wanted, `W` items looked at, `E` excluded items of all requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import faiss as typed_faiss
import numpy as np
import numpy.typing as npt

from kernels.jagged import columns, row_numbers
from models.recommend.interface import NO_ITEM
from models.recommend.vector_index_config import FLAT, HNSW, IVF_PQ, IndexConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
FaissIndex = Any
faiss: Any = typed_faiss
"""Its type stubs lack what its generated classes hold."""
PQ_CENTROIDS = 256
"""Of each byte of a compressed vector; as many items are needed to train them."""
_UNIT_TOLERANCE = 1e-3


class VectorIndex:
    """A faiss index whose entries are numbered as the vectors it was built from.

    Args:
        index: From `VectorIndex.build` or `VectorIndex.from_bytes`.
    """

    def __init__(self, index: FaissIndex) -> None:
        self._index = index
        self._stored_ND = _stored_vectors(index)

    @classmethod
    def build(cls, vectors_ND: Floats, config: IndexConfig) -> VectorIndex:
        """Build an index on one thread; equal vectors and configuration give the same bytes.

        Args:
            vectors_ND: float32 `[N, D]`, rows of length 1.
            config: Kind and sizes.

        Raises:
            ValueError: Vectors are not of length 1, or there are too few, or of the wrong width, for `ivf_pq`.
        """
        vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
        _check_vectors(vectors_ND)
        _check_fit(vectors_ND, config)
        index = _empty_index(len(vectors_ND), vectors_ND.shape[1], config)
        with one_thread():
            if not index.is_trained:
                index.train(vectors_ND)
            index.add(vectors_ND)
        return cls(index)

    @classmethod
    def from_bytes(cls, content: bytes) -> VectorIndex:
        """Read what `to_bytes` wrote. Whoever stores the bytes checks their digest first: faiss trusts them.

        Raises:
            ValueError: The bytes are no index.
        """
        try:
            index = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
        except RuntimeError as error:
            raise ValueError(
                f"vector index: expected what was written by `to_bytes`, got {len(content)} bytes"
            ) from error
        return cls(index)

    def with_added(self, vectors_MD: Floats) -> VectorIndex:
        """Return this index with further entries behind its own; it stays as it is, lists and codebooks are the same.

        Args:
            vectors_MD: float32 `[M, D]`, rows of length 1.

        Raises:
            ValueError: Vectors are not of length 1 or of another width.
        """
        vectors_MD = np.ascontiguousarray(vectors_MD, dtype=np.float32)
        _check_vectors(vectors_MD)
        if vectors_MD.shape[1] != self.width:
            raise ValueError(f"item vectors: expected width {self.width}, that of the index, got {vectors_MD.shape[1]}")
        index = faiss.clone_index(self._index)
        with one_thread():
            index.add(vectors_MD)
        return VectorIndex(index)

    def to_bytes(self) -> bytes:
        """Return the whole index, search settings included."""
        return bytes(faiss.serialize_index(self._index).tobytes())

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """Width `D` of the vectors."""
        return int(self._index.d)

    @property
    def kind(self) -> str:
        """One of `vector_index_config.KINDS`."""
        if isinstance(self._index, faiss.IndexHNSWFlat):
            return HNSW
        return IVF_PQ if isinstance(self._index, faiss.IndexIVFPQ) else FLAT

    def search(
        self,
        queries_BD: Floats,
        k: int,
        excluded_items: Ints | None = None,
        excluded_offsets: Ints | None = None,
    ) -> tuple[Ints, Floats]:
        """Return the `k` nearest entries of each query that it does not exclude.

        More than `k` are looked for, by how many a request excludes, and the excluded ones are left out. A request that
        is left with fewer than `min(k, items it may get)` is answered from all of its allowed entries.

        Args:
            queries_BD: float32 `[B, D]`.
            k: Entries wanted.
            excluded_items: Entries that must not be returned, of all queries; None excludes nothing.
            excluded_offsets: `B + 1` offsets: query b owns entries offsets[b]:offsets[b + 1].

        Returns:
            Entries `[B, K]`, best first, ties by number, and their inner products (in `ivf_pq` with the compressed
            vectors); `NO_ITEM` and `-inf` after the last.

        Raises:
            ValueError: The queries have another width than the entries.
        """
        queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
        if queries_BD.ndim != 2 or queries_BD.shape[1] != self.width:
            raise ValueError(
                f"queries: expected shape [B, {self.width}], the width of the indexed vectors, got "
                f"{list(queries_BD.shape)}; index the vectors of the model that makes the queries"
            )
        size = len(queries_BD)
        if excluded_items is None or excluded_offsets is None:
            excluded_items, excluded_offsets = np.zeros(0, np.int64), np.zeros(size + 1, np.int64)
        keys_E = np.unique(row_numbers(np.diff(excluded_offsets)) * len(self) + excluded_items)
        out_B = np.bincount(keys_E // max(len(self), 1), minlength=size)
        items_BK = np.full((size, k), NO_ITEM, dtype=np.int64)
        scores_BK = np.full((size, k), -np.inf, dtype=np.float32)
        widths_B = _widths(k + out_B, len(self))
        for width in np.unique(widths_B[widths_B > 0]):
            rows = np.flatnonzero(widths_B == width)
            found_bW, scores_bW = self._nearest(queries_BD[rows], int(width))
            taken_bW = (found_bW == NO_ITEM) | np.isin(rows[:, None] * len(self) + found_bW, keys_E)
            items_BK[rows], scores_BK[rows] = _first(found_bW, scores_bW, taken_bW, k)
        lacking = np.flatnonzero((items_BK != NO_ITEM).sum(axis=1) < np.minimum(k, len(self) - out_B))
        for row in lacking:
            excluded = excluded_items[excluded_offsets[row] : excluded_offsets[row + 1]]
            found_1K, scores_1K = self._of_all_allowed(queries_BD[row : row + 1], k, excluded)
            items_BK[row], scores_BK[row] = _first(found_1K, scores_1K, found_1K == NO_ITEM, k)
        return items_BK, scores_BK

    def _nearest(self, queries_BD: Floats, width: int) -> tuple[Ints, Floats]:
        """Ask the index for `width` entries each, best first, ties by number."""
        parameters = None
        if self.kind == HNSW:
            parameters = faiss.SearchParametersHNSW(efSearch=max(self._index.hnsw.efSearch, width))
        scores_BW, found_BW = self._index.search(queries_BD, width, params=parameters)
        return self._ordered(queries_BD, found_BW, scores_BW)

    def _of_all_allowed(self, query_1D: Floats, k: int, excluded: Ints) -> tuple[Ints, Floats]:
        """Compare one query with every entry it does not exclude."""
        allowed = faiss.IDSelectorNot(faiss.IDSelectorBatch(excluded))
        width = min(k, len(self))
        if self.kind == IVF_PQ:
            parameters = faiss.SearchParametersIVF(sel=allowed, nprobe=self._index.nlist)
            scores_1K, found_1K = self._index.search(query_1D, width, params=parameters)
        else:
            vectors = self._index.storage if self.kind == HNSW else self._index
            scores_1K, found_1K = vectors.search(query_1D, width, params=faiss.SearchParameters(sel=allowed))
        return self._ordered(query_1D, found_1K, scores_1K)

    def _ordered(self, queries_BD: Floats, found_BW: Ints, scores_BW: Floats) -> tuple[Ints, Floats]:
        """Sort by score, then number.

        faiss multiplies many queries in blocks and few one by one, which differ in the last digit: enough to turn round
        two items with equal vectors. Where the vectors are there, scores are therefore computed again, one by one.
        """
        if self._stored_ND is not None:
            exact_BW = np.einsum("bwd,bd->bw", self._stored_ND[found_BW], queries_BD)
            scores_BW = np.where(found_BW == NO_ITEM, -np.inf, exact_BW).astype(np.float32)
        order_BW = np.lexsort((found_BW, -scores_BW), axis=1)
        return np.take_along_axis(found_BW, order_BW, axis=1), np.take_along_axis(scores_BW, order_BW, axis=1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss use one thread: what it builds is then the same every time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _empty_index(items: int, width: int, config: IndexConfig) -> FaissIndex:
    if config.kind == IVF_PQ:
        description = f"IVF{config.lists_for(items)},PQ{config.pq_bytes}x8"
        index = faiss.index_factory(width, description, faiss.METRIC_INNER_PRODUCT)
        for clustering in (index.cp, index.pq.cp):
            clustering.seed = config.seed
            clustering.min_points_per_centroid = 1  # too few are refused before; faiss would only print a warning
        index.nprobe = min(config.probes, index.nlist)
        index.do_polysemous_training = False  # orders codes for a search that is not used here, in seconds
        return index
    if config.kind == HNSW:
        index = faiss.IndexHNSWFlat(width, config.hnsw_m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = config.ef_construction, config.ef_search
        return index
    return faiss.IndexFlatIP(width)


def _check_vectors(vectors_ND: Floats) -> None:
    if vectors_ND.ndim != 2 or not vectors_ND.size:
        raise ValueError(f"item vectors: expected shape [items, width], got {list(vectors_ND.shape)}")
    lengths_N = np.linalg.norm(vectors_ND, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths_N - 1) < _UNIT_TOLERANCE))
    if len(wrong):
        raise ValueError(
            f"item vectors: expected rows of length 1, got {lengths_N[wrong[0]]:.4g} in row {wrong[0]} ({len(wrong)} "
            "such rows); divide each row by its length"
        )


def _check_fit(vectors_ND: Floats, config: IndexConfig) -> None:
    if config.kind != IVF_PQ:
        return
    items, width = vectors_ND.shape
    least = max(PQ_CENTROIDS, config.lists_for(items))
    mistakes = []
    if items < least:
        mistakes.append(
            f"kind: ivf_pq expected at least {least} items to train on, got {items}; use flat or fewer lists"
        )
    if width % config.pq_bytes:
        mistakes.append(f"pq_bytes: expected a divisor of the vectors' width {width}, got {config.pq_bytes}")
    if mistakes:
        raise ValueError("; ".join(mistakes))


def _stored_vectors(index: FaissIndex) -> Floats | None:
    """Return a view of the vectors that an index holds, None where it holds them compressed."""
    if isinstance(index, faiss.IndexIVFPQ):
        return None
    flat = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSWFlat) else index
    stored: Floats = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return stored


def _widths(wanted_B: Ints, items: int) -> Ints:
    """Round up to powers of two: few searches for a batch, each request's width still its own affair."""
    return np.minimum(2 ** np.ceil(np.log2(np.maximum(wanted_B, 1))).astype(np.int64), items)


def _first(found_BW: Ints, scores_BW: Floats, taken_BW: npt.NDArray[np.bool_], k: int) -> tuple[Ints, Floats]:
    """Return the `k` first entries per row that are not taken."""
    rows, places = np.nonzero(~taken_BW)
    ranks = columns(np.bincount(rows, minlength=len(found_BW)))
    rows, places, ranks = rows[ranks < k], places[ranks < k], ranks[ranks < k]
    items_BK = np.full((len(found_BW), k), NO_ITEM, dtype=np.int64)
    scores_BK = np.full((len(found_BW), k), -np.inf, dtype=np.float32)
    items_BK[rows, ranks] = found_BW[rows, places]
    scores_BK[rows, ranks] = scores_BW[rows, places]
    return items_BK, scores_BK
