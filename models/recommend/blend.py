"""Learned fusion: the retrievers' and the ranker's scores pooled log-linearly, with weights fitted on held-out pages.

`score(item) = sum_r w_r z_r(item)`, where `z_r` is the log-score that source `r` gives the item minus the best one it
gives to anything for the request. An item that a retriever did not name counts as its last one: that is the most it can
have scored. A product of experts (Hinton 2002; log-linear opinion pool, Genest & Zidek 1986), here of `w`-th powers.

Legend: `B` requests, `K` candidates of a list, `F` fused candidates, `R` sources.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from models.recommend.fusion import Fused, reordered, rerank
from models.recommend.interface import NO_ITEM, Candidates

Floats = npt.NDArray[np.float32]
LOG_SCORED = ("genrec", "two_tower")
"""Sources whose scores are logarithms already, up to a factor; the others' are positive worths."""
_LEAST = 1e-9
"""Smallest worth of which a logarithm is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blend:
    """A weight per source, in no particular order; what has none does not count."""

    weights: Mapping[str, float]

    def order(self, fused: Fused, relative_BFR: Floats, sources: Sequence[str]) -> Fused:
        """Order candidates by the blend; `parts_BFR` are then what each source takes off the best possible score, 0.

        Args:
            fused: Candidates of `B` requests.
            relative_BFR: From `relative_scores`.
            sources: Of its `R` columns.
        """
        weight_R = np.array([self.weights.get(source, 0.0) for source in sources], dtype=np.float32)
        parts_BFR = relative_BFR * weight_R
        return reordered(fused, parts_BFR, tuple(sources))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """The candidates of `B` requests and everything that is said of them.

    Attributes:
        lists: Of the retrievers.
        fused: The lists joined by rank.
        ranker: Its name and its scores `[B, F]` of the fused candidates; None where it says nothing.
        ranker_weight, rrf_k: Of `rerank`.
    """

    lists: Sequence[Candidates]
    fused: Fused
    ranker: tuple[str, Floats] | None
    ranker_weight: float
    rrf_k: float

    def ordered(self, blend: Blend | None) -> Fused:
        """Return the candidates in the order of the learned fusion, without one in that of all ranks."""
        if blend is not None:
            return blend.order(self.fused, *self.relative())
        if self.ranker is None:
            return self.fused
        name, scores_BF = self.ranker
        return rerank(self.fused, scores_BF, name, self.ranker_weight, self.rrf_k)

    def relative(self) -> tuple[Floats, tuple[str, ...]]:
        """Return `relative_scores` of the fused candidates."""
        return relative_scores(self.lists, self.fused.items_BF, self.ranker)


def relative_scores(
    lists: Sequence[Candidates], items_BF: npt.NDArray[np.int64], ranker: tuple[str, Floats] | None
) -> tuple[Floats, tuple[str, ...]]:
    """Return what every source says of every candidate, `[B, F, R]`, at most 0, and the names of the `R` sources.

    Args:
        lists: Candidate lists of the same `B` requests.
        items_BF: The candidates, `NO_ITEM` where there is none.
        ranker: Its name and its scores of the candidates, None without a ranker.

    Example:
        >>> list_ = Candidates(items_BK=np.array([[7, 3]]), scores_BK=np.array([[-1, -3]], np.float32), source="genrec")
        >>> relative_scores([list_], np.array([[3, 5, 7, -1]]), None)[0][0, :, 0].tolist()
        [-2.0, -2.0, 0.0, 0.0]
    """
    columns = [_of_list(entry, items_BF) for entry in lists]
    names = [entry.source for entry in lists]
    if ranker is not None:
        name, scores_BF = ranker
        columns.append(_relative(_logs(name, scores_BF), items_BF != NO_ITEM))
        names.append(name)
    return np.stack(columns, axis=2), tuple(names)


def _of_list(entry: Candidates, items_BF: npt.NDArray[np.int64]) -> Floats:
    """Look each candidate up in a list; what is not there, or was named without a score, has the list's lowest."""
    said_BK = (entry.items_BK != NO_ITEM) & np.isfinite(entry.scores_BK)
    relative_BK = _relative(_logs(entry.source, entry.scores_BK), said_BK)
    lowest_B = relative_BK.min(axis=1, initial=0.0)
    span = 1 + int(max(entry.items_BK.max(initial=0), items_BF.max(initial=0)))
    row_B = np.arange(len(items_BF), dtype=np.int64)[:, None] * span
    # a last key that nobody asks for, so that every search ends at one
    key_M = np.append((row_B + entry.items_BK)[said_BK], np.iinfo(np.int64).max)
    value_M = np.append(relative_BK[said_BK], np.float32(0))
    order = np.argsort(key_M)
    wanted_BF = row_B + items_BF
    place_BF = order[np.searchsorted(key_M, wanted_BF, sorter=order)]
    value_BF = np.where(key_M[place_BF] == wanted_BF, value_M[place_BF], lowest_B[:, None])
    return np.where(items_BF == NO_ITEM, 0.0, value_BF).astype(np.float32)


def _logs(source: str, scores: Floats) -> Floats:
    return scores if source in LOG_SCORED else np.log(np.maximum(scores, _LEAST))


def _relative(values: Floats, there: npt.NDArray[np.bool_]) -> Floats:
    """Subtract each row's largest value; 0 where there is nothing."""
    best = np.where(there, values, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        return np.where(there, values - best, 0.0).astype(np.float32)
