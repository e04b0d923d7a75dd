"""A two-tower model whose vectors are planted: items on a circle, users where their last item is."""

from __future__ import annotations

import numpy as np

from features.semantic_ids import Catalogue
from models.recommend.interface import RequestBatch


class PlantedEncoder:
    """Item n stands at n / `items` of a circle, a user at the last item of the history.

    Whoever has no history stands at item 0, or nowhere if `knows_strangers` is false.
    """

    def __init__(self, items: int, knows_strangers: bool = True) -> None:
        self.items, self.knows_strangers = items, knows_strangers

    def item_vectors(self) -> np.ndarray:
        return self._at(np.arange(self.items))

    def user_vectors(self, requests: RequestBatch, catalogue: Catalogue) -> np.ndarray:
        """Ids, not numbers, say where an item stands: `item07` at 7."""
        strangers = np.diff(requests.history_offsets) == 0
        last = np.zeros(len(requests), dtype=np.int64)
        last[~strangers] = requests.history_items[requests.history_offsets[1:][~strangers] - 1]
        places = np.array([int(item[4:]) for item in catalogue.ids(last)], dtype=np.int64)
        vectors = self._at(np.where(strangers, 0, places))
        return vectors if self.knows_strangers else vectors * ~strangers[:, None]

    def _at(self, places: np.ndarray) -> np.ndarray:
        angles = 2 * np.pi * (places + 0.1 * (places % 2)) / self.items  # no two neighbours equally far
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
