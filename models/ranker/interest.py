"""Interest of a user in a candidate, read from the history: hard search by category, then target attention.

SIM (Pi et al., Search-based User Interest Modeling, CIKM 2020, arXiv 2006.05639) with its hard search: of a request's
history only the entries of the candidate's category count, or the newest ones where there are none; they are attended
to with the candidate as query. Keys and values know the item, what the user did with it and how long ago.

Legend: `B` requests, `R` candidates of all requests, `E` history entries of all requests, `K` and `H` the most
candidates and entries of one request, `A` attention width, `F` width of an item's representation.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from features.schemas import EVENT_KINDS
from models.genrec.data import GAP_BUCKETS

NO_CATEGORY = -1
"""Matches no category, not even itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
    """History entries or candidates, jagged by request, padded in their attention.

    Attributes:
        request: The request of each, not decreasing.
        column: Its place within the request, oldest first.
        category: Number of its deepest category, `NO_CATEGORY` without one.
        lengths_B: How many each request has.
    """

    request: Tensor
    column: Tensor
    category: Tensor
    lengths_B: Tensor

    @property
    def longest(self) -> int:
        """The most that one request has."""
        return int(self.lengths_B.max()) if len(self.lengths_B) else 0

    def padded(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Return values `[entries, ...]` as `[B, longest, ...]`."""
        shape = (len(self.lengths_B), self.longest, *values.shape[1:])
        return values.new_full(shape, fill).index_put((self.request, self.column), values)


def search(candidates: Entries, history: Entries, recent: int) -> tuple[Tensor, Tensor]:
    """Find the entries that each candidate attends to.

    Args:
        candidates: `R` candidates.
        history: `E` entries.
        recent: Newest entries that stand in where none is of the candidate's category.

    Returns:
        bool `[B, K, H]`, the entries found; int64 `[B, K]`, how many of them are of the candidate's category.
    """
    category_BK = candidates.padded(candidates.category, NO_CATEGORY)
    category_BH = history.padded(history.category, NO_CATEGORY)
    same_BKH = (category_BK.unsqueeze(2) == category_BH.unsqueeze(1)) & (category_BH != NO_CATEGORY).unsqueeze(1)
    matches_BK = same_BKH.sum(dim=2)
    place_H = torch.arange(history.longest, device=category_BH.device)
    lengths_B1 = history.lengths_B.unsqueeze(1)
    recent_BH = (place_H < lengths_B1) & (place_H >= lengths_B1 - recent)
    return torch.where((matches_BK > 0).unsqueeze(2), same_BKH, recent_BH.unsqueeze(1)), matches_BK


class Interest(nn.Module):
    """Target attention over the entries that `search` finds.

    Args:
        item_width: `F`.
        width: `A`, of the result.
        heads: Divides `width`.
        recent: See `search`.
    """

    def __init__(self, item_width: int, width: int, heads: int, recent: int) -> None:
        super().__init__()
        self.heads, self.recent = heads, recent
        self.event = nn.Embedding(len(EVENT_KINDS), width)
        self.gap = nn.Embedding(GAP_BUCKETS, width)
        for embedding in (self.event, self.gap):
            nn.init.normal_(embedding.weight, std=0.05)
        self.query = nn.Linear(item_width, width)
        self.key = nn.Linear(item_width + 2 * width, width)
        self.value = nn.Linear(item_width + 2 * width, width)

    def entries(self, items_EF: Tensor, events_E: Tensor, gaps_E: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of history entries, `[E, A]` each.

        Args:
            items_EF: Representations of the items.
            events_E: Codes of `EVENT_KINDS`.
            gaps_E: Buckets of the time before the request (`gap_buckets`).
        """
        known = torch.cat([items_EF, self.event(events_E).to(items_EF), self.gap(gaps_E).to(items_EF)], dim=1)
        return self.key(known), self.value(known)

    def forward(
        self, items_RF: Tensor, candidates: Entries, keys_EA: Tensor, values_EA: Tensor, history: Entries
    ) -> tuple[Tensor, Tensor]:
        """Return the attended values of each candidate, `[R, A]`, and how many entries share its category, `[R]`.

        A candidate of a request without history gets zeros.
        """
        found_BKH, matches_BK = search(candidates, history, self.recent)
        query_BhKa = self._heads(candidates.padded(self.query(items_RF)))
        key_BhHa, value_BhHa = self._heads(history.padded(keys_EA)), self._heads(history.padded(values_EA))
        score_BhKH = query_BhKa @ key_BhHa.transpose(2, 3) / math.sqrt(query_BhKa.shape[3])
        score_BhKH = score_BhKH.masked_fill(~found_BKH.unsqueeze(1), -math.inf)
        # a row of -inf alone, a user without history, would be nan
        weight_BhKH = torch.softmax(score_BhKH, dim=3).nan_to_num(0.0)
        attended_BKA = (weight_BhKH @ value_BhHa).transpose(1, 2).flatten(2)
        place = (candidates.request, candidates.column)
        return attended_BKA[place], matches_BK[place]

    def _heads(self, padded_BLA: Tensor) -> Tensor:
        requests, longest, width = padded_BLA.shape
        return padded_BLA.view(requests, longest, self.heads, width // self.heads).transpose(1, 2)


def reference_interest(
    module: Interest, items_RF: Tensor, candidates: Entries, keys_EA: Tensor, values_EA: Tensor, history: Entries
) -> tuple[Tensor, Tensor]:
    """Return what `Interest.forward` returns, one candidate and one head at a time."""
    attended, counts = [], []
    for row, request in enumerate(candidates.request.tolist()):
        own = [entry for entry, owner in enumerate(history.request.tolist()) if owner == request]
        category = int(candidates.category[row])
        same = [entry for entry in own if category != NO_CATEGORY and int(history.category[entry]) == category]
        found = same or own[-module.recent :]
        heads = zip(
            module.query(items_RF[row]).chunk(module.heads),
            keys_EA[found].chunk(module.heads, dim=1),
            values_EA[found].chunk(module.heads, dim=1),
            strict=True,
        )
        parts = [torch.softmax(key @ query / math.sqrt(len(query)), dim=0) @ value for query, key, value in heads]
        attended.append(torch.cat(parts))
        counts.append(len(same))
    return torch.stack(attended), torch.tensor(counts)
