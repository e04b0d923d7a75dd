"""GenRec as a retriever: beam search over semantic IDs, each ID expanded to its items.

Legend: `B` requests, `K` beams, `S` distinct semantic IDs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.semantic_ids import Catalogue
from kernels.jagged import columns, concat_ranges, row_numbers
from kernels.trie import Trie
from models.genrec.batch import pack_prompts
from models.genrec.config import DecodeConfig
from models.genrec.decode import beam_search, hallucination_share, unconstrained_search
from models.genrec.model import GenRec
from models.recommend.interface import NO_ITEM, Candidates, RequestBatch


class GenRecRetriever:
    """Proposes the items behind the most probable semantic IDs of the next page's first item.

    Args:
        model: Trained on semantic IDs of the same generation as `catalogue`.
        catalogue: Items and semantic IDs.
        config: Beams and batch size.
        withdrawn_N: Items that nobody may get (unavailable), bool; None when all may.

    Raises:
        ValueError: Model and catalogue speak different vocabularies.
    """

    name = "genrec"

    def __init__(
        self,
        model: GenRec,
        catalogue: Catalogue,
        config: DecodeConfig,
        withdrawn_N: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        if model.vocabulary != catalogue.vocabulary:
            raise ValueError(
                f"GenRec was trained on codes {model.vocabulary.codes_per_level} per level, the catalogue has "
                f"{catalogue.vocabulary.codes_per_level}; use the semantic-ID generation the model was trained on"
            )
        self.model = model.eval()
        self.catalogue = catalogue
        self.config = config
        self.trie = Trie.from_sorted(catalogue.sids_SL)
        self.withdrawn = np.zeros(0, np.int64) if withdrawn_N is None else np.flatnonzero(withdrawn_N)

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return up to `k` items per request; the score of an item is its semantic ID's log-probability."""
        items_BK = np.full((len(requests), k), NO_ITEM, dtype=np.int64)
        scores_BK = np.full((len(requests), k), -np.inf, dtype=np.float32)
        for start in range(0, len(requests), self.config.batch_size):
            rows = np.arange(start, min(start + self.config.batch_size, len(requests)))
            items_BK[rows], scores_BK[rows] = self._decode(requests.take(rows), k)
        return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=self.name)

    def hallucination_rate(self, requests: RequestBatch, beams: int = 10) -> float:
        """Return the share of invalid IDs among the `beams` best of a search without the trie."""
        if not len(requests):
            return 0.0
        shares, sizes = [], []
        sids = torch.from_numpy(self.catalogue.sids_SL)
        for start in range(0, len(requests), self.config.batch_size):
            rows = np.arange(start, min(start + self.config.batch_size, len(requests)))
            prompts = pack_prompts(requests.take(rows), self.catalogue, self.model.config)
            codes_BKL, _ = unconstrained_search(self.model, prompts, beams)
            shares.append(hallucination_share(codes_BKL, sids, self.catalogue.vocabulary.codes_per_level))
            sizes.append(len(rows))
        return float(np.average(shares, weights=sizes))

    def _decode(self, requests: RequestBatch, k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        excluded = self._excluded(requests)
        prompts = pack_prompts(requests, self.catalogue, self.model.config)
        found = beam_search(
            self.model, prompts, self.trie, max(k, self.config.beams), self._allowed(excluded, len(requests))
        )
        return self._expand(found.sids_BK.numpy(), found.scores_BK.numpy(), excluded, k)

    def _excluded(self, requests: RequestBatch) -> npt.NDArray[np.int64]:
        """Return sorted distinct keys `request * N + item` of everything a request must not get."""
        size = len(self.catalogue)
        own = row_numbers(np.diff(requests.excluded_offsets)) * size + requests.excluded_items
        everyone = (np.arange(len(requests))[:, None] * size + self.withdrawn).reshape(-1)
        return np.unique(np.concatenate([own, everyone]))

    def _allowed(self, excluded: npt.NDArray[np.int64], batch: int) -> Tensor | None:
        """Allow an ID while one of its items is not excluded; None when nothing is."""
        if not len(excluded):
            return None
        size, sids = len(self.catalogue), len(self.catalogue.sids_SL)
        rows, items = np.divmod(excluded, size)
        gone = np.bincount(rows * sids + self.catalogue.sid_of_item_N[items], minlength=batch * sids)
        return torch.from_numpy(gone.reshape(batch, sids) < np.diff(self.catalogue.offsets))

    def _expand(
        self,
        sids_BK: npt.NDArray[np.int64],
        scores_BK: npt.NDArray[np.float32],
        excluded: npt.NDArray[np.int64],
        k: int,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Replace each ID by its items, most popular first, leave out excluded ones and keep `k` per request."""
        rows, beams = np.nonzero(sids_BK >= 0)
        sids = sids_BK[rows, beams]
        counts = np.diff(self.catalogue.offsets)[sids]
        items = self.catalogue.items[concat_ranges(self.catalogue.offsets[sids], counts)]
        rows, scores = np.repeat(rows, counts), np.repeat(scores_BK[rows, beams], counts)
        kept = ~np.isin(rows * len(self.catalogue) + items, excluded)
        rows, items, scores = rows[kept], items[kept], scores[kept]
        places = columns(np.bincount(rows, minlength=len(sids_BK)))
        kept = places < k
        items_BK = np.full((len(sids_BK), k), NO_ITEM, dtype=np.int64)
        best_BK = np.full((len(sids_BK), k), -np.inf, dtype=np.float32)
        items_BK[rows[kept], places[kept]] = items[kept]
        best_BK[rows[kept], places[kept]] = scores[kept]
        return items_BK, best_BK
