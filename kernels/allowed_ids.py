"""Which sorted semantic IDs each request may get, counted fast over any range of them.

A batch has few distinct filters (availability, category, price) and every request forbids a few IDs more (seen,
disliked), so a filter is a row of cumulative counts and what is special to a request a short sorted list::

    IDs               0 1 2 3 4        S = 5
    filter 0          x x . x x        counts_FS  [0 1 2 2 3 4]
    gone of request b   1     4        below(0, 3) = (2 - 0) - 1 = 1

Legend: `B` requests, `F` distinct filters, `S` semantic IDs, `X` further forbidden IDs, `M` ranges per request.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class AllowedIds:
    """Filters of a batch over the sorted semantic IDs.

    Attributes:
        counts_FS: int32 `[F, S + 1]`, the number of IDs before each that a filter leaves.
        filter_B: int64, the filter of each request.
        gone_BX: int64, sorted rows of further IDs that are forbidden to a request, padded with `S`; its filter leaves
            each of them.
    """

    counts_FS: Tensor
    filter_B: Tensor
    gone_BX: Tensor

    @classmethod
    def from_bitmap(cls, allowed_BS: Tensor) -> AllowedIds:
        """Take one filter of its own for each request: true where it may get an ID.

        Example:
            >>> allowed = AllowedIds.from_bitmap(torch.tensor([[True, False, True]]))
            >>> allowed.below(torch.tensor([[0, 1]]), torch.tensor([[3, 2]])).tolist()
            [[2, 0]]
        """
        rows = len(allowed_BS)
        return cls(
            counts_FS=F.pad(allowed_BS.cumsum(dim=1, dtype=torch.int32), (1, 0)),
            filter_B=torch.arange(rows, device=allowed_BS.device),
            gone_BX=torch.empty(rows, 0, dtype=torch.int64, device=allowed_BS.device),
        )

    def below(self, start_BM: Tensor, end_BM: Tensor) -> Tensor:
        """Count the allowed IDs in `[start, end)`, int32 `[B, M]`; needs `0 <= start <= end <= S`."""
        width = self.counts_FS.shape[1]
        row_B1 = self.filter_B[:, None] * width
        left_BM = self.counts_FS.view(-1)[row_B1 + end_BM] - self.counts_FS.view(-1)[row_B1 + start_BM]
        if not self.gone_BX.shape[1]:
            return left_BM
        before_end, before_start = (
            torch.searchsorted(self.gone_BX, place_BM.long().contiguous(), out_int32=True)
            for place_BM in (end_BM, start_BM)
        )
        return left_BM - (before_end - before_start)


def reference_below(allowed: AllowedIds, start_BM: Tensor, end_BM: Tensor) -> Tensor:
    """Return the same as `AllowedIds.below`, ID by ID in plain Python."""
    answer_BM = torch.zeros(start_BM.shape, dtype=torch.int32)
    for request, filter_number in enumerate(allowed.filter_B.tolist()):
        counts = allowed.counts_FS[filter_number].tolist()
        left = {sid for sid in range(len(counts) - 1) if counts[sid + 1] > counts[sid]}
        left -= set(allowed.gone_BX[request].tolist())
        for place in range(start_BM.shape[1]):
            span = range(int(start_BM[request, place]), int(end_BM[request, place]))
            answer_BM[request, place] = len(left.intersection(span))
    return answer_BM
