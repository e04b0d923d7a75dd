"""The two-tower model as a retriever: the items whose vectors are nearest to the user's.

Legend: `B` requests, `N` indexed items, `D` width, `K` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from features.semantic_ids import Catalogue
from kernels.jagged import concat_ranges, offsets_from_lengths, row_numbers
from models.recommend.eligibility import Ints, ItemMask, PerMask, groups
from models.recommend.growth import NewItems
from models.recommend.interface import NO_ITEM, Candidates, RequestBatch, UserEncoder
from models.recommend.vector_answers import AllowedEntries, Floats
from models.recommend.vector_index import VectorIndex
from models.recommend.vector_index_config import IndexConfig


class TwoTowerRetriever:
    """Proposes the items nearest to the user's vector.

    Catalogue items that the index does not hold are never proposed, and index entries outside the catalogue are passed
    over. A user the encoder has nothing to say about (a row of zeros) gets no candidates.

    Args:
        encoder: Turns requests into user vectors.
        index: Over item vectors of the same model.
        item_ids: The id of each entry of the index.
        catalogue: Numbers the items.

    Raises:
        ValueError: There is not one id per entry.
    """

    name = "two_tower"

    def __init__(
        self, encoder: UserEncoder, index: VectorIndex, item_ids: Sequence[str] | pa.Array, catalogue: Catalogue
    ) -> None:
        if len(item_ids) != len(index):
            raise ValueError(
                f"two-tower index: expected one item id per entry, {len(index)}, got {len(item_ids)}; take index and "
                "ids from one training run"
            )
        self.encoder, self.index, self.catalogue = encoder, index, catalogue
        self.item_ids: pa.Array = item_ids if isinstance(item_ids, pa.Array) else pa.array(item_ids, pa.string())
        self._number_of_entry_N = catalogue.numbers(self.item_ids)
        own = np.flatnonzero(self._number_of_entry_N >= 0)
        self._entry_of_number = np.full(len(catalogue), NO_ITEM, dtype=np.int64)
        self._entry_of_number[self._number_of_entry_N[own]] = own
        self._all_of_catalogue = AllowedEntries(self._number_of_entry_N >= 0) if len(own) < len(index) else None
        self._allowed_entries = PerMask(partial(_entries_that_pass, self._number_of_entry_N))

    @classmethod
    def build(
        cls,
        encoder: UserEncoder,
        item_vectors_ND: Floats,
        item_ids: Sequence[str] | pa.Array,
        catalogue: Catalogue,
        config: IndexConfig,
    ) -> TwoTowerRetriever:
        """Index those of the items that the catalogue holds.

        Args:
            encoder: Turns requests into user vectors.
            item_vectors_ND: float32 `[N, D]`, rows of length 1.
            item_ids: Their ids.
            catalogue: Numbers the items.
            config: Kind of index.

        Raises:
            ValueError: No item is in the catalogue, or the vectors do not fit the configuration.
        """
        ids = item_ids if isinstance(item_ids, pa.Array) else pa.array(item_ids, pa.string())
        if len(ids) != len(item_vectors_ND):
            raise ValueError(f"item vectors: expected one id per row, {len(item_vectors_ND)}, got {len(ids)}")
        own = np.flatnonzero(catalogue.numbers(ids) >= 0)
        if not len(own):
            raise ValueError(
                f"two-tower: none of its {len(ids)} items is among the {len(catalogue)} of the catalogue; train it on "
                "the items the semantic IDs were made of (`pagewise train two-tower`)"
            )
        index = VectorIndex.build(np.asarray(item_vectors_ND)[own], config)
        return cls(encoder, index, ids.take(pa.array(own)), catalogue)

    def with_new_items(self, new: NewItems) -> TwoTowerRetriever:
        """Return this retriever with further items in its index; it stays as it is.

        Raises:
            ValueError: The new items have no vectors, or of another width.
        """
        if new.vectors_MD is None:
            raise ValueError(f"two-tower: expected vectors of {len(new)} new items, got none")
        item_ids = pa.concat_arrays([self.item_ids, new.ids])
        return TwoTowerRetriever(
            new.encoder(self.encoder), self.index.with_added(new.vectors_MD), item_ids, new.catalogue
        )

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return up to `k` items per request; the score of an item is its cosine with the user."""
        users_BD = self.encoder.user_vectors(requests, self.catalogue)
        known = np.flatnonzero(users_BD.any(axis=1))
        items_BK = np.full((len(requests), k), NO_ITEM, dtype=np.int64)
        scores_BK = np.full((len(requests), k), -np.inf, dtype=np.float32)
        for mask, rows in groups(requests.eligible, len(requests)):
            asked = np.intersect1d(rows, known)
            excluded, offsets = self._excluded_entries(requests, asked)
            allowed = self._all_of_catalogue if mask is None else self._allowed_entries(mask)
            found_bK, scores_BK[asked] = self.index.search(users_BD[asked], k, excluded, offsets, allowed)
            items_BK[asked] = np.where(found_bK == NO_ITEM, NO_ITEM, self._number_of_entry_N[found_bK])
        return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=self.name)

    def _excluded_entries(self, requests: RequestBatch, rows: Ints) -> tuple[Ints, Ints]:
        """Return the entries of the index that the requests of these rows exclude, jagged."""
        lengths = np.diff(requests.excluded_offsets)[rows]
        items = requests.excluded_items[concat_ranges(requests.excluded_offsets[rows], lengths)]
        entries = self._entry_of_number[items]
        there = entries != NO_ITEM
        return entries[there], offsets_from_lengths(np.bincount(row_numbers(lengths)[there], minlength=len(rows)))


def _entries_that_pass(numbers_N: Ints, mask: ItemMask) -> AllowedEntries:
    """Return the entries of the index, of these items, whose items pass; those outside the catalogue do not."""
    return AllowedEntries((numbers_N >= 0) & mask.allowed_N[numbers_N])
