"""GenRec's two opinions of an item joined: the probability of its semantic ID, and of the item itself by the item head.

::

    score(item) = log P(semantic ID) + item_weight x log P(item)

Beams propose items by their IDs, the head proposes some by itself; an ID that no beam reached counts as the worst that
one did. Within one ID the head decides, not popularity.

Legend: `B` requests, `R` of them at a time, `N` items, `D` width, `K` candidates of the head, `X` (request, item)
pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.semantic_ids import Catalogue
from models.genrec.config import DecodeConfig
from models.genrec.item_level import item_logits
from models.genrec.model import GenRec
from models.recommend.eligibility import Ints, groups
from models.recommend.interface import RequestBatch

Floats = npt.NDArray[np.float32]
LOGITS = 1 << 25
"""Numbers in memory at the same time, one per (request, item) pair: as many requests go together, or one at a time.
There are two such arrays."""


class Found(NamedTuple):
    """Items found for requests, by request, best first."""

    rows_X: Ints
    items_X: Ints
    scores_X: Floats


class ItemBlend:
    """Scores a catalogue's items by a GenRec's item head.

    Args:
        model: With an item head.
        catalogue: Its items; those that training did not know are told apart by their vectors alone.
        config: Weight of the head and number of its own candidates.
    """

    def __init__(self, model: GenRec, catalogue: Catalogue, config: DecodeConfig) -> None:
        self.config, self._level = config, model.item_level
        vectors_NV = catalogue.item_vectors if model.config.item_vectors else np.zeros((len(catalogue), 0), np.float32)
        with torch.no_grad():
            self._keys_ND = model.item_keys(torch.from_numpy(vectors_NV))

    def __call__(self, found: Found, hidden_BD: Tensor, requests: RequestBatch) -> Found:
        """Return what was found and what the head proposes, in order of the joined score.

        Args:
            found: What the beams found, with the log-probability of the item's ID.
            hidden_BD: The hidden state of each request's `[PAGE]` token.
            requests: What items they may get.
        """
        step = max(1, LOGITS // len(self._keys_ND))
        if len(requests) <= step:
            return self._joined(found, hidden_BD, requests)
        parts = []
        for start in range(0, len(requests), step):
            rows = np.arange(start, min(start + step, len(requests)))
            mine = slice(*np.searchsorted(found.rows_X, [start, start + step]))
            few = Found(found.rows_X[mine] - start, found.items_X[mine], found.scores_X[mine])
            part = self._joined(few, hidden_BD[start : start + step], requests.take(rows))
            parts.append(part._replace(rows_X=part.rows_X + start))
        return Found(*map(np.concatenate, zip(*parts, strict=True)))

    def _joined(self, found: Found, hidden_RD: Tensor, requests: RequestBatch) -> Found:
        """Return the same for as many requests as fit into memory."""
        with torch.no_grad():
            logprobs_RN = item_logits(self._level, hidden_RD, self._keys_ND).log_softmax(dim=1).numpy()
        said_X = logprobs_RN[found.rows_X, found.items_X]
        own = self._proposed(logprobs_RN, requests)
        radix = logprobs_RN.shape[1]
        new = ~np.isin(own.rows_X * radix + own.items_X, found.rows_X * radix + found.items_X)
        worst_R = np.full(len(requests), np.inf, dtype=np.float32)
        np.minimum.at(worst_R, found.rows_X, found.scores_X)
        rows, items = np.append(found.rows_X, own.rows_X[new]), np.append(found.items_X, own.items_X[new])
        sid_scores = np.append(found.scores_X, worst_R[own.rows_X[new]])
        logprobs = np.append(said_X, own.scores_X[new])
        scores = (sid_scores + self.config.item_weight * logprobs).astype(np.float32)
        order = np.lexsort((-scores, rows))
        return Found(rows[order], items[order], scores[order])

    def _proposed(self, logprobs_RN: Floats, requests: RequestBatch) -> Found:
        """Return the best items of the head that each request may get; overwrites what it may not get."""
        for mask, rows in groups(requests.eligible, len(requests)):
            if mask is not None:
                logprobs_RN[np.ix_(rows, ~mask.allowed_N)] = -np.inf
        logprobs_RN[requests.excluded_rows, requests.excluded_items] = -np.inf
        count = min(self.config.item_candidates, logprobs_RN.shape[1])
        best = torch.from_numpy(logprobs_RN).topk(count, dim=1)
        rows, places = np.nonzero(np.isfinite(best.values.numpy()))
        return Found(rows, best.indices.numpy()[rows, places], best.values.numpy()[rows, places])
