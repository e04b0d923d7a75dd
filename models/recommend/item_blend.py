"""GenRec's two opinions of an item joined: the probability of its semantic ID, and of the item itself by the item head.

::

    score(item) = log P(semantic ID) + item_weight x log P(item)

Beams propose items by their IDs, the head proposes some by itself; an ID that no beam reached counts as the worst that
one did. Within one ID the head decides, not popularity.

Legend: `B` requests, `N` items, `D` width, `K` candidates of the head, `X` (request, item) pairs.
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
        with torch.no_grad():
            logprobs_BN = item_logits(self._level, hidden_BD, self._keys_ND).log_softmax(dim=1).numpy()
        own = self._proposed(logprobs_BN, requests)
        radix = logprobs_BN.shape[1]
        new = ~np.isin(own.rows_X * radix + own.items_X, found.rows_X * radix + found.items_X)
        worst_B = np.full(len(requests), np.inf, dtype=np.float32)
        np.minimum.at(worst_B, found.rows_X, found.scores_X)
        rows, items = np.append(found.rows_X, own.rows_X[new]), np.append(found.items_X, own.items_X[new])
        sid_scores = np.append(found.scores_X, worst_B[own.rows_X[new]])
        scores = (sid_scores + self.config.item_weight * logprobs_BN[rows, items]).astype(np.float32)
        order = np.lexsort((-scores, rows))
        return Found(rows[order], items[order], scores[order])

    def _proposed(self, logprobs_BN: Floats, requests: RequestBatch) -> Found:
        """Return the best items of the head that each request may get."""
        allowed_BN = logprobs_BN.copy()
        for mask, rows in groups(requests.eligible, len(requests)):
            if mask is not None:
                allowed_BN[np.ix_(rows, ~mask.allowed_N)] = -np.inf
        allowed_BN[requests.excluded_rows, requests.excluded_items] = -np.inf
        count = min(self.config.item_candidates, allowed_BN.shape[1])
        best = torch.from_numpy(allowed_BN).topk(count, dim=1)
        rows, places = np.nonzero(np.isfinite(best.values.numpy()))
        return Found(rows, best.indices.numpy()[rows, places], best.values.numpy()[rows, places])
