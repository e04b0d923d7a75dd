"""An index over item vectors: the items whose vectors are nearest to a request's, by inner product.

What is found for a request depends on the index and on this request alone, never on what is asked beside it: the pages
of a batch job equal those of the service.
Legend: `N` items, `D` width, `B` requests, `b` requests of one width, `K` items wanted, `W` items looked at, `E`
excluded items of all requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import faiss as typed_faiss
import numpy as np

from kernels.jagged import row_numbers
from models.recommend.eligibility import Ints
from models.recommend.interface import NO_ITEM
from models.recommend.vector_answers import AllowedEntries, Answers, Finder, Floats
from models.recommend.vector_index_config import FLAT, HNSW, IVF_PQ, IndexConfig

FaissIndex = Any
faiss: Any = typed_faiss
"""Its type stubs lack what its generated classes hold."""
PQ_CENTROIDS = 256
"""Of each byte of a compressed vector; as many items are needed to train them."""
_UNIT_TOLERANCE = 1e-3
_SPARSE = 8
"""Where fewer than one entry in so many is allowed, the allowed ones are compared one by one: the index would have to
look at so many others on the way."""


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
        if vectors_MD.shape[1:] != (self.width,):
            raise ValueError(f"item vectors: expected width {self.width}, that of the index, got {vectors_MD.shape[1]}")
        _check_vectors(vectors_MD)
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
        allowed: AllowedEntries | None = None,
    ) -> tuple[Ints, Floats]:
        """Return the `k` nearest entries of each query that are allowed and that it does not exclude.

        More than `k` are looked for, by how many a request excludes and by the share that is allowed, and the others
        are left out. A request that is left with fewer than `min(k, entries it may get)` is answered from all allowed
        entries, and so is every request where few entries are allowed.

        Args:
            queries_BD: float32 `[B, D]`.
            k: Entries wanted.
            excluded_items: Entries that must not be returned, of all queries; None excludes nothing.
            excluded_offsets: `B + 1` offsets: query b owns entries offsets[b]:offsets[b + 1].
            allowed: Entries that may be returned at all; None allows all.

        Returns:
            Entries `[B, K]`, best first, ties by number, and their inner products (in `ivf_pq` with the compressed
            vectors); `NO_ITEM` and `-inf` after the last.

        Raises:
            ValueError: The queries have another width than the entries, or there is not one `allowed` per entry.
        """
        queries_BD = np.ascontiguousarray(queries_BD, dtype=np.float32)
        self._check_question(queries_BD, allowed)
        if excluded_items is None or excluded_offsets is None:
            excluded_items, excluded_offsets = np.zeros(0, np.int64), np.zeros(len(queries_BD) + 1, np.int64)
        excluded_rows = row_numbers(np.diff(excluded_offsets))
        answers = Answers(queries_BD, k, len(self), excluded_rows, excluded_items, allowed)
        if answers.allowed_share * _SPARSE >= 1:
            answers.fill(np.arange(len(queries_BD)), self._nearest, answers.allowed_share)
        answers.fill(answers.lacking(), self._among(allowed))
        return answers.items_BK, answers.scores_BK

    def _check_question(self, queries_BD: Floats, allowed: AllowedEntries | None) -> None:
        if queries_BD.ndim != 2 or queries_BD.shape[1] != self.width:
            raise ValueError(
                f"queries: expected shape [B, {self.width}], the width of the indexed vectors, got "
                f"{list(queries_BD.shape)}; index the vectors of the model that makes the queries"
            )
        if allowed is not None and len(allowed.allowed_N) != len(self):
            raise ValueError(f"allowed: expected one flag per entry, {len(self)}, got {len(allowed.allowed_N)}")

    def _nearest(self, queries_BD: Floats, width: int) -> tuple[Ints, Floats]:
        """Ask the index for `width` entries each, best first, ties by number."""
        parameters = None
        if self.kind == HNSW:
            parameters = faiss.SearchParametersHNSW(efSearch=max(self._index.hnsw.efSearch, width))
        scores_BW, found_BW = self._index.search(queries_BD, width, params=parameters)
        return self._ordered(queries_BD, found_BW, scores_BW)

    def _among(self, allowed: AllowedEntries | None) -> Finder:
        """Return a search that compares queries with all allowed entries."""
        if self.kind == IVF_PQ:
            index, search = self._index, faiss.SearchParametersIVF
            options: dict[str, Any] = {"nprobe": self._index.nlist}
            if allowed is not None:
                options["sel"] = faiss.IDSelectorBitmap(allowed.bitmap)
        else:
            index, search = (self._index.storage if self.kind == HNSW else self._index), faiss.SearchParameters
            options = {} if allowed is None else {"sel": faiss.IDSelectorArray(allowed.entries)}

        def find(queries_BD: Floats, width: int) -> tuple[Ints, Floats]:
            scores_BW, found_BW = index.search(queries_BD, width, params=search(**options))
            return self._ordered(queries_BD, found_BW, scores_BW)

        return find

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
