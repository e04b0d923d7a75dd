"""Requests' filters and exclusions as what beam search understands: which semantic IDs may still be reached.

Legend: `B` requests, `F` distinct filters, `N` items, `S` distinct semantic IDs, `E` excluded items of all requests,
`G` (request, ID) pairs that an excluded item stands behind, `X` most forbidden IDs of one request.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from torch import Tensor

from features.semantic_ids import Catalogue
from kernels.allowed_ids import AllowedIds
from kernels.jagged import columns, concat_ranges, row_numbers
from models.recommend.eligibility import Eligibility, Ints, ItemMask
from models.recommend.interface import RequestBatch


class SidFilter:
    """Allows a semantic ID to a request while the request may get one of its items.

    What a mask leaves is counted once for as long as the mask lives; what is special to a request costs as much as the
    request excludes, whatever the size of the catalogue.

    Args:
        catalogue: Items and semantic IDs.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._counts = _RowPerMask(len(catalogue.sids_SL) + 1)
        self._everything = ItemMask(np.ones(len(catalogue), dtype=bool))
        # A page maker with other facts, asked once before it is served, shares this with the one that is being served.
        self._lock = threading.Lock()

    def allowed(self, requests: RequestBatch) -> AllowedIds | None:
        """Return which IDs each request may get, None where all may get all; right while the requests live."""
        eligible = requests.eligible
        if eligible is None:
            if not len(requests.excluded_items):
                return None
            eligible = Eligibility(masks=(self._everything,), row_B=np.zeros(len(requests), dtype=np.int64))
        row_F = np.array([self._row(mask) for mask in eligible.masks], dtype=np.int64)
        return AllowedIds(
            counts_FS=self._counts.values,
            filter_B=torch.from_numpy(row_F[eligible.row_B]),
            gone_BX=torch.from_numpy(self._gone(requests, eligible)),
        )

    def _row(self, mask: ItemMask) -> int:
        """Return the row of a mask's counts: how many IDs before each have an item that passes."""
        with self._lock:
            row = self._counts.row(mask)
            if row is None:
                there_S = np.zeros(len(self.catalogue.sids_SL), dtype=bool)
                there_S[self.catalogue.sid_of_item_N[mask.allowed_N]] = True
                row = self._counts.add(mask, torch.from_numpy(there_S).cumsum(dim=0, dtype=torch.int32))
            return row

    def _gone(self, requests: RequestBatch, eligible: Eligibility) -> Ints:
        """Return, `[B, X]`, the sorted IDs that a filter leaves and all of whose items a request excludes."""
        catalogue, ids = self.catalogue, len(self.catalogue.sids_SL)
        rows_E, items_E = requests.excluded_rows, requests.excluded_items
        passing_E = eligible.allows(rows_E, items_E)
        keys_E = np.unique(rows_E[passing_E] * len(catalogue) + items_E[passing_E])
        sids_E = catalogue.sid_of_item_N[keys_E % max(len(catalogue), 1)]
        keys_G, excluded_G = np.unique(keys_E // max(len(catalogue), 1) * ids + sids_E, return_counts=True)
        rows_G, sids_G = keys_G // ids, keys_G % ids
        counts_G = catalogue.offsets[sids_G + 1] - catalogue.offsets[sids_G]
        items = catalogue.items[concat_ranges(catalogue.offsets[sids_G], counts_G)]
        passes = eligible.allows(np.repeat(rows_G, counts_G), items)
        passing_G = np.bincount(row_numbers(counts_G)[passes], minlength=len(keys_G))
        gone_G = excluded_G == passing_G
        return _padded(rows_G[gone_G], sids_G[gone_G], len(requests), ids)


class _RowPerMask:
    """Counts of all living masks in one matrix, so that a batch picks rows instead of copying them.

    Attributes:
        values: int32, a row per mask, 0 in the first column; rows of masks that are gone are used again.
    """

    def __init__(self, width: int) -> None:
        self.values = torch.zeros(1, width, dtype=torch.int32)
        self._free = [0]
        self._row_of: weakref.WeakKeyDictionary[ItemMask, int] = weakref.WeakKeyDictionary()

    def row(self, mask: ItemMask) -> int | None:
        return self._row_of.get(mask)

    def add(self, mask: ItemMask, counts_S: Tensor) -> int:
        if not self._free:
            self._free.extend(range(len(self.values), 2 * len(self.values)))
            self.values = torch.cat([self.values, torch.zeros_like(self.values)])
        row = self._row_of[mask] = self._free.pop()
        self.values[row, 1:] = counts_S
        weakref.finalize(mask, self._free.append, row).atexit = False
        return row


def _padded(rows_G: Ints, sids_G: Ints, size: int, padding: int) -> Ints:
    """Return the values of each row side by side, `[B, X]`."""
    lengths_B = np.bincount(rows_G, minlength=size)
    padded_BX: Ints = np.full((size, int(lengths_B.max(initial=0))), padding, dtype=np.int64)
    padded_BX[rows_G, columns(lengths_B)] = sids_G
    return padded_BX
