"""Weighted reciprocal-rank fusion: several ranked lists per request become one.

Legend: `B` requests, `R` lists, `K` candidates of a list, `M` all candidates of a request, `F` fused candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.recommend.interface import NO_ITEM, Candidates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fused:
    """One ranked list per request, and what each source contributed.

    Attributes:
        items_BF: Catalogue numbers, best first, `NO_ITEM` after the last.
        scores_BF: float32, not increasing along `F`, 0 where there is no item.
        parts_BFR: float32, the contribution of each list; they add up to the score.
        sources: Names of the `R` lists.
        named_BF: The list that counts most for the item: which one to name as its source.
    """

    items_BF: npt.NDArray[np.int64]
    scores_BF: npt.NDArray[np.float32]
    parts_BFR: npt.NDArray[np.float32]
    sources: tuple[str, ...]
    named_BF: npt.NDArray[np.int64]

    def row(self, row: int, without: npt.NDArray[np.int64] | None = None) -> Fused:
        """Return the candidates of one request alone, `B = 1`, without padding.

        Args:
            row: The request.
            without: Items to leave out.
        """
        there = self.items_BF[row] != NO_ITEM
        if without is not None:
            there &= ~np.isin(self.items_BF[row], without)
        return Fused(
            items_BF=self.items_BF[row, there][None],
            scores_BF=self.scores_BF[row, there][None],
            parts_BFR=self.parts_BFR[row, there][None],
            sources=self.sources,
            named_BF=self.named_BF[row, there][None],
        )

    def keeping(self, kept_BF: npt.NDArray[np.bool_]) -> Fused:
        """Return the same without some of the candidates, which leave their places empty."""
        return dataclasses.replace(
            self,
            items_BF=np.where(kept_BF, self.items_BF, NO_ITEM),
            scores_BF=np.where(kept_BF, self.scores_BF, np.float32(0)),
        )


def stacked(rows: Sequence[Fused]) -> Fused:
    """Return single requests as a batch, padded to the longest.

    Args:
        rows: `B >= 1` of them (`Fused.row`), all of the same sources.
    """
    width = max(row.items_BF.shape[1] for row in rows)

    def joined(name: str, filler: float) -> npt.NDArray[Any]:
        arrays = [getattr(row, name) for row in rows]
        tails = [((0, 0), (0, width - array.shape[1]), *[(0, 0)] * (array.ndim - 2)) for array in arrays]
        padded = [np.pad(array, tail, constant_values=filler) for array, tail in zip(arrays, tails, strict=True)]
        return np.concatenate(padded)

    return Fused(
        items_BF=joined("items_BF", NO_ITEM),
        scores_BF=joined("scores_BF", 0),
        parts_BFR=joined("parts_BFR", 0),
        sources=rows[0].sources,
        named_BF=joined("named_BF", 0),
    )


def reordered(fused: Fused, parts_BFR: npt.NDArray[np.float32], sources: tuple[str, ...]) -> Fused:
    """Order candidates by the sum of new parts; equal scores keep the order they had, sources stay what they were.

    Args:
        fused: Candidates of `B` requests.
        parts_BFR: What each of the `sources` contributes.
        sources: Their names.
    """
    there_BF = fused.items_BF != NO_ITEM
    total_BF = np.where(there_BF, parts_BFR.sum(axis=2), 0.0).astype(np.float32)
    best_BF = np.argsort(-np.where(there_BF, total_BF, -np.inf), axis=1, kind="stable")
    return Fused(
        items_BF=np.take_along_axis(fused.items_BF, best_BF, axis=1),
        scores_BF=np.take_along_axis(total_BF, best_BF, axis=1),
        parts_BFR=np.take_along_axis(parts_BFR, best_BF[..., None], axis=1),
        sources=sources,
        named_BF=np.take_along_axis(fused.named_BF, best_BF, axis=1),
    )


def rerank(fused: Fused, scores_BF: npt.NDArray[np.float32], source: str, weight: float, rrf_k: float) -> Fused:
    """Order fused candidates anew, with a ranker's order among them as one more list.

    `score = (fused + weight (rrf_k + 1) / (rrf_k + rank)) / (1 + weight)`, ranks of the ranker counted from 1: again 1
    for an item that everybody puts first. Equal scores keep the order they had.

    Args:
        fused: Candidates of `B` requests.
        scores_BF: The ranker's scores, `-inf` where there is no candidate; equal ones rank in the order of `fused`.
        source: The ranker's name.
        weight: Its weight relative to that of all retrievers together, > 0.
        rrf_k: Damping of the first ranks, as in `fuse`.

    Example:
        >>> a = Candidates(items_BK=np.array([[7, 3]]), scores_BK=np.zeros((1, 2), np.float32), source="a")
        >>> again = rerank(fuse([a], [1], rrf_k=1, limit=3), np.array([[0.1, 0.9, -np.inf]], np.float32), "r", 3, 1)
        >>> again.items_BF.tolist(), [round(float(score), 3) for score in again.scores_BF[0]], again.sources
        ([[3, 7, -1]], [0.917, 0.75, 0.0], ('a', 'r'))
    """
    there_BF = fused.items_BF != NO_ITEM
    order_BF = np.argsort(-np.where(there_BF, scores_BF, -np.inf), axis=1, kind="stable")
    rank_BF = np.empty_like(order_BF)
    np.put_along_axis(rank_BF, order_BF, np.arange(1, order_BF.shape[1] + 1)[None], axis=1)
    gain_BF = weight * (rrf_k + 1) / (rrf_k + rank_BF)
    parts_BFR = np.concatenate([fused.parts_BFR, gain_BF[..., None]], axis=2) / (1 + weight)
    parts_BFR = (parts_BFR * there_BF[..., None]).astype(np.float32)
    return reordered(fused, parts_BFR, (*fused.sources, source))


def fuse(lists: Sequence[Candidates], weights: Sequence[float], rrf_k: float, limit: int) -> Fused:
    """Fuse ranked lists by a weighted mean, over the lists that hold anything for the request, of damped ranks.

    `score(item) = sum_r weight_r (rrf_k + 1) / (rrf_k + rank_r(item)) / sum_r weight_r`, ranks counted from 1: 1 for an
    item that all lists put first, whatever the number of lists. Equal scores are ordered by the place of the item's
    first appearance, lists in the order given.

    Args:
        lists: `R >= 1` candidate lists of the same `B` requests; `K` may differ.
        weights: One per list, > 0.
        rrf_k: Damping of the first ranks, >= 0.
        limit: Candidates kept per request.

    Source: Cormack, Clarke and Buettcher, SIGIR 2009, there without weights and constant factors.

    Example:
        >>> a = Candidates(items_BK=np.array([[7, 3]]), scores_BK=np.zeros((1, 2), np.float32), source="a")
        >>> b = Candidates(items_BK=np.array([[3, 5]]), scores_BK=np.zeros((1, 2), np.float32), source="b")
        >>> fused = fuse([a, b], weights=[1, 1], rrf_k=0, limit=3)
        >>> fused.items_BF.tolist(), fused.scores_BF.tolist()
        ([[3, 7, 5]], [[0.75, 0.5, 0.25]])
    """
    items_BM = np.concatenate([entry.items_BK for entry in lists], axis=1)
    widths = [entry.items_BK.shape[1] for entry in lists]
    rank_M = np.concatenate([np.arange(1, width + 1) for width in widths])
    list_M = np.repeat(np.arange(len(lists)), widths)
    has_BR = np.stack([(entry.items_BK != NO_ITEM).any(axis=1) for entry in lists], axis=1)
    share_BR = has_BR * np.asarray(weights, dtype=np.float64)
    share_BR /= np.maximum(share_BR.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    gain_M = (rrf_k + 1) / (rrf_k + rank_M)

    row, column = np.nonzero(items_BM != NO_ITEM)
    item = items_BM[row, column]
    order = np.lexsort((column, item, row))
    row, column, item = row[order], column[order], item[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
    group = np.cumsum(first) - 1

    parts_GR = np.zeros((int(first.sum()), len(lists)))
    np.add.at(parts_GR, (group, list_M[column]), share_BR[row, list_M[column]] * gain_M[column])
    parts_GR = parts_GR.astype(np.float32)
    score_G = parts_GR.sum(axis=1)
    row_G, item_G, column_G = row[first], item[first], column[first]

    best = np.lexsort((column_G, -score_G, row_G))
    row_G = row_G[best]
    place_G = np.arange(len(best)) - np.searchsorted(row_G, row_G)
    kept = place_G < limit
    where = (row_G[kept], place_G[kept])
    fused = Fused(
        items_BF=np.full((len(items_BM), limit), NO_ITEM, dtype=np.int64),
        scores_BF=np.zeros((len(items_BM), limit), dtype=np.float32),
        parts_BFR=np.zeros((len(items_BM), limit, len(lists)), dtype=np.float32),
        sources=tuple(entry.source for entry in lists),
        named_BF=np.zeros((len(items_BM), limit), dtype=np.int64),
    )
    fused.items_BF[where] = item_G[best][kept]
    fused.scores_BF[where] = score_G[best][kept]
    fused.parts_BFR[where] = parts_GR[best][kept]
    fused.named_BF[where] = parts_GR[best][kept].argmax(axis=1)
    return fused
