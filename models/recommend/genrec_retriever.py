"""GenRec as a retriever: beam search over semantic IDs, each ID expanded to its items.

Legend: `B` requests, `N` items, `K` beams, `S` distinct semantic IDs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from features.semantic_ids import Catalogue
from kernels.jagged import columns, concat_ranges
from kernels.trie import Trie
from models.genrec.batch import PackedBatch, pack_prompts
from models.genrec.config import DecodeConfig
from models.genrec.decode import beam_search, hallucination_share, unconstrained_search
from models.genrec.model import GenRec
from models.precision import autocast
from models.recommend.eligibility import Ints
from models.recommend.growth import NewItems
from models.recommend.interface import NO_ITEM, Candidates, RequestBatch, UserEncoder
from models.recommend.item_blend import Found, ItemBlend
from models.recommend.sid_filter import SidFilter


class GenRecRetriever:
    """Proposes the items behind the most probable semantic IDs of the next page's first item.

    Args:
        model: Trained on semantic IDs of the same generation as `catalogue`.
        catalogue: Items and semantic IDs.
        config: Beams and batch size.
        users: The two-tower model it was trained with, for a model with `user_prefix`.

    Raises:
        ValueError: The catalogue is empty, model and catalogue speak different vocabularies, or the two-tower model is
            missing.
    """

    name = "genrec"

    def __init__(
        self, model: GenRec, catalogue: Catalogue, config: DecodeConfig, users: UserEncoder | None = None
    ) -> None:
        if not len(catalogue):
            raise ValueError("the catalogue is empty: expected items with semantic IDs; run `pagewise semantic-ids`")
        if model.vocabulary != catalogue.vocabulary:
            raise ValueError(
                f"GenRec was trained on codes {model.vocabulary.codes_per_level} per level, the catalogue has "
                f"{catalogue.vocabulary.codes_per_level}; use the semantic-ID generation the model was trained on"
            )
        if model.config.user_prefix and users is None:
            raise ValueError(
                f"GenRec was trained with user vectors of width {model.config.user_prefix}; expected the two-tower "
                "model that made them, got none"
            )
        self.users = users if model.config.user_prefix else None
        self.model = model.eval()
        self.catalogue = catalogue
        self.config = config
        self.trie = Trie.from_sorted(catalogue.sids_SL)
        self.filter = SidFilter(catalogue)
        self.blend = ItemBlend(model, catalogue, config) if model.config.item_head else None

    def with_new_items(self, new: NewItems) -> GenRecRetriever:
        """Return this retriever over a larger catalogue; the model knows new items by codes and vectors. It stays."""
        users = None if self.users is None else new.encoder(self.users)
        return GenRecRetriever(self.model, new.catalogue, self.config, users)

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return up to `k` items per request.

        The score of an item is its semantic ID's log-probability, with an item head joined as `item_blend` tells.
        """
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
            prompts = self._prompts(requests.take(rows))
            codes_BKL, _ = unconstrained_search(self.model, prompts, beams)
            shares.append(hallucination_share(codes_BKL, sids, self.catalogue.vocabulary.codes_per_level))
            sizes.append(len(rows))
        return float(np.average(shares, weights=sizes))

    def _decode(self, requests: RequestBatch, k: int) -> tuple[Ints, npt.NDArray[np.float32]]:
        prompts, allowed = self._prompts(requests), self.filter.allowed(requests)
        with autocast(self.config.precision, prompts.tokens_BT.device):
            beams = max(k, self.config.beams)
            found = beam_search(self.model, prompts, self.trie, beams, allowed, self.config.renormalize)
        items = self._expand(found.sids_BK.numpy(), found.scores_BK.numpy(), requests)
        if self.blend is not None:
            items = self.blend(items, found.page_hidden_BD, requests)
        return _first(items, len(requests), k)

    def _prompts(self, requests: RequestBatch) -> PackedBatch:
        vectors_BU = None if self.users is None else self.users.user_vectors(requests, self.catalogue)
        return pack_prompts(requests, self.catalogue, self.model.config, vectors_BU)

    def _expand(self, sids_BK: Ints, scores_BK: npt.NDArray[np.float32], requests: RequestBatch) -> Found:
        """Replace each ID by the items the request may get, most popular first."""
        rows, beams = np.nonzero(sids_BK >= 0)
        sids = sids_BK[rows, beams]
        counts = self.catalogue.offsets[sids + 1] - self.catalogue.offsets[sids]
        items = self.catalogue.items[concat_ranges(self.catalogue.offsets[sids], counts)]
        rows, scores = np.repeat(rows, counts), np.repeat(scores_BK[rows, beams], counts)
        kept = requests.permits(rows, items)
        return Found(rows[kept], items[kept], scores[kept])


def _first(found: Found, size: int, k: int) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Return the first `k` items of each request and their scores, side by side."""
    ranks = columns(np.bincount(found.rows_X, minlength=size))
    kept = ranks < k
    items_BK = np.full((size, k), NO_ITEM, dtype=np.int64)
    scores_BK = np.full((size, k), -np.inf, dtype=np.float32)
    items_BK[found.rows_X[kept], ranks[kept]] = found.items_X[kept]
    scores_BK[found.rows_X[kept], ranks[kept]] = found.scores_X[kept]
    return items_BK, scores_BK
