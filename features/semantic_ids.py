"""Semantic IDs as seen by every part: the token vocabulary and the catalogue (which items stand behind which ID).

Legend: `N` items, `S` distinct semantic IDs, `L` levels, `C` codes per level.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.id_index import IdIndex

PAD, BOS, PAGE = 0, 1, 2
"""Special tokens: padding, start of a prompt, start of a response (a page)."""
SPECIAL_TOKENS = 3
Vectors = Callable[[], npt.NDArray[np.floating]]
"""Returns vectors of items, `[N, V]`, when somebody wants them."""


@dataclasses.dataclass(frozen=True)
class SidVocabulary:
    """Token numbers of semantic-ID codes: specials first, then the codes of level 0, of level 1, ...

    Attributes:
        codes_per_level: Number of codes of each level.

    Example:
        >>> vocabulary = SidVocabulary((4, 4, 2))
        >>> vocabulary.size, vocabulary.offsets
        (13, (3, 7, 11))
        >>> vocabulary.tokens(np.array([[1, 3, 0]])).tolist()
        [[4, 10, 11]]
    """

    codes_per_level: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.codes_per_level or min(self.codes_per_level) < 1:
            raise ValueError(f"codes_per_level: expected positive numbers, one per level, got {self.codes_per_level}")

    @property
    def levels(self) -> int:
        """Number of levels `L`."""
        return len(self.codes_per_level)

    @property
    def size(self) -> int:
        """Number of tokens, specials included."""
        return SPECIAL_TOKENS + sum(self.codes_per_level)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The token of code 0 of each level."""
        offsets = [SPECIAL_TOKENS]
        for codes in self.codes_per_level[:-1]:
            offsets.append(offsets[-1] + codes)
        return tuple(offsets)

    def tokens(self, codes_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return the tokens of zero-based codes, shape `[N, L]` in and out."""
        return codes_NL.astype(np.int64) + np.asarray(self.offsets, dtype=np.int64)


class Catalogue:
    """Items with semantic IDs, and the sorted distinct IDs with the items behind each.

    Items are numbered 0..N-1 in the order given; all retrievers, rankers and the page maker speak in these numbers.

    Attributes:
        item_ids: Item ids, `N` strings.
        codes_NL: Zero-based codes of each item, int32.
        sids_SL: The distinct semantic IDs in lexicographic order, int32.
        sid_of_item_N: Row of `sids_SL` of each item.
        offsets: `S + 1` offsets into `items`.
        items: Item numbers grouped by semantic ID, most popular first.

    Args:
        item_ids: Distinct item ids.
        codes_NL: Codes, shape `[N, L]`, `0 <= code < codes_per_level[l]`.
        codes_per_level: Size of each level's codebook.
        popularity_N: Orders the items of one ID (default: as given).
        vectors: Returns the vectors the codes were made of, `[N, V]`; asked only where somebody wants them.

    Raises:
        ValueError: Shapes differ, an id occurs twice or a code is out of range.
    """

    def __init__(
        self,
        item_ids: Sequence[str] | pa.Array,
        codes_NL: npt.NDArray[np.integer],
        codes_per_level: tuple[int, ...],
        popularity_N: npt.NDArray[np.floating] | None = None,
        vectors: Vectors | None = None,
    ) -> None:
        self.vocabulary = SidVocabulary(tuple(int(codes) for codes in codes_per_level))
        self.item_ids: pa.Array = item_ids if isinstance(item_ids, pa.Array) else pa.array(item_ids, pa.string())
        self.codes_NL: npt.NDArray[np.int32] = np.ascontiguousarray(codes_NL, dtype=np.int32)
        self._check()
        self._vectors = vectors
        popularity = np.zeros(len(self)) if popularity_N is None else np.asarray(popularity_N, dtype=np.float64)
        self.sids_SL, self.sid_of_item_N = _distinct(self.codes_NL, self.vocabulary.codes_per_level)
        self.items: npt.NDArray[np.int64] = np.lexsort((np.arange(len(self)), -popularity, self.sid_of_item_N))
        counts = np.bincount(self.sid_of_item_N, minlength=len(self.sids_SL))
        self.offsets: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def item_vectors(self) -> npt.NDArray[np.float32]:
        """The items' vectors, `[N, V]`, each of mean square 1 (zeros stay zeros).

        Raises:
            ValueError: The catalogue was made without, or has new items without.
        """
        if self._vectors is None:
            raise ValueError(
                "item vectors: expected the vectors that the semantic IDs were made of, got a catalogue without; take "
                "it from a semantic-ID bundle, and give new items theirs"
            )
        vectors_NV = np.asarray(self._vectors(), dtype=np.float32)
        if len(vectors_NV) != len(self):
            raise ValueError(f"item vectors: expected one per item, {len(self)}, got {len(vectors_NV)}")
        scale_N1: npt.NDArray[np.float32] = np.sqrt(np.square(vectors_NV).mean(axis=1, keepdims=True))
        scale_N1[scale_N1 == 0] = 1
        return vectors_NV / scale_N1

    def with_new_items(
        self,
        item_ids: pa.Array,
        codes_ML: npt.NDArray[np.integer],
        vectors_MV: npt.NDArray[np.floating] | None = None,
    ) -> Catalogue:
        """Return a catalogue with further items behind these, which keep their numbers; this one stays as it is.

        Among the items of one ID, the new ones come last.

        Args:
            item_ids: `M` ids that the catalogue does not hold.
            codes_ML: Their codes.
            vectors_MV: The vectors their codes were made of; without them nobody can ask for vectors any more.

        Raises:
            ValueError: As in the constructor.
        """
        place_N = np.empty(len(self))
        place_N[self.items] = np.arange(len(self))
        return Catalogue(
            pa.concat_arrays([self.item_ids, item_ids]),
            np.concatenate([self.codes_NL, codes_ML]),
            self.vocabulary.codes_per_level,
            np.concatenate([-place_N, np.full(len(item_ids), -len(self))]),
            None if vectors_MV is None else self._vectors_and(vectors_MV),
        )

    def _vectors_and(self, vectors_MV: npt.NDArray[np.floating]) -> Vectors | None:
        """Return what gives the items' vectors and further ones; it does not keep this catalogue alive."""
        if self._vectors is None:
            return None
        own = partial(np.asarray, self.item_vectors) if "item_vectors" in vars(self) else self._vectors
        return lambda: np.concatenate([own(), vectors_MV])

    @cached_property
    def fingerprint(self) -> str:
        """A digest of ids and codes."""
        digest = hashlib.sha256(self.codes_NL.tobytes())
        digest.update("\n".join(self.item_ids.to_pylist()).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.item_ids)

    def numbers(self, item_ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the item number of each id, -1 where the catalogue does not hold it."""
        values = item_ids if isinstance(item_ids, pa.Array | pa.ChunkedArray) else pa.array(item_ids, pa.string())
        return self._index.find(values)

    def ids(self, numbers: npt.NDArray[np.integer]) -> list[str]:
        """Return the ids of item numbers."""
        ids: list[str] = self.item_ids.take(pa.array(numbers, pa.int64())).to_pylist()
        return ids

    def _check(self) -> None:
        expected = (len(self.item_ids), self.vocabulary.levels)
        if self.codes_NL.shape != expected:
            raise ValueError(f"codes: expected shape {expected} (items, levels), got {self.codes_NL.shape}")
        if len(pc.unique(self.item_ids)) != len(self.item_ids):
            raise ValueError("item ids: expected distinct ids, got some twice; validate the items table")
        if len(self.codes_NL) and (
            self.codes_NL.min() < 0 or (self.codes_NL.max(axis=0) >= np.array(self.vocabulary.codes_per_level)).any()
        ):
            raise ValueError(
                f"codes: expected 0 <= code < {self.vocabulary.codes_per_level} per level, got minimum "
                f"{self.codes_NL.min(axis=0).tolist()} and maximum {self.codes_NL.max(axis=0).tolist()}"
            )


def _distinct(
    codes_NL: npt.NDArray[np.int32], sizes: tuple[int, ...]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the distinct rows in lexicographic order, and the place of each row among them."""
    if math.prod(sizes) >= 2**63:
        sids_SL, sid_of_item = np.unique(codes_NL, axis=0, return_inverse=True)
        return sids_SL, sid_of_item.reshape(-1).astype(np.int64)
    # integers sort several times faster than rows
    keys_N = np.ravel_multi_index(tuple(codes_NL.T.astype(np.int64)), sizes)
    _, first_S, sid_of_item = np.unique(keys_N, return_index=True, return_inverse=True)
    return codes_NL[first_S], sid_of_item.reshape(-1).astype(np.int64)
