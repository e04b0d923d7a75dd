"""The trained ranker as the page maker's ranking stage.

Legend: `B` requests, `K` candidates of each, `R` candidates of all requests, `N` items, `D` representation width.
"""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.columns import Columns, stacked
from models.inputs.requests import request_columns
from models.ranker.batch import deepest_categories, entries, history_of
from models.ranker.calibration import Calibration
from models.ranker.cross import pair_columns
from models.ranker.encoding import encode
from models.ranker.layout import Side
from models.ranker.model import UnifiedRanker
from models.ranker.unified import Values
from models.recommend.growth import NewItems
from models.recommend.interface import NO_ITEM, RequestBatch, Snapshots

_ITEMS = 8192
"""Items represented together; bounds memory."""


class ModelRanker:
    """Scores candidates by what their click, cart and purchase are worth: the sum of value x calibrated probability.

    What is known of the items alone is looked up once, for the whole catalogue.

    Args:
        model: A trained ranker.
        calibration: Its calibration.
        items: `item_columns` of the catalogue, `N` rows.
        item_features: Values of the item features by now, `N` rows; None where there are none.
    """

    name = "ranker"

    def __init__(
        self, model: UnifiedRanker, calibration: Calibration, items: Columns, item_features: Columns | None = None
    ) -> None:
        self.model, self.calibration, self.items = model.eval(), calibration, items
        self._category_N = deepest_categories(items)
        self._item_ND = self._represent(model.layout.item, items)
        self._moment_ND = self._represent(model.layout.moment, item_features or Columns(rows=items.rows))
        self._snapshots: Snapshots | None = None

    def with_item_features(self, item_features: Columns) -> ModelRanker:
        """Return this ranker with other values of the item features; what else is known of the items is shared.

        Raises:
            ValueError: There is not one row per item.
        """
        if item_features.rows != self.items.rows:
            raise ValueError(f"item_features: expected one row per item, {self.items.rows}, got {item_features.rows}")
        other = copy.copy(self)
        other._moment_ND = self._represent(self.model.layout.moment, item_features)
        other._snapshots = None
        return other

    def with_new_items(self, new: NewItems) -> ModelRanker:
        """Return this ranker with further items; it stays as it is."""
        other, layout = copy.copy(self), self.model.layout
        features = new.item_features or Columns(rows=len(new))
        other.items = stacked([self.items, new.columns])
        other._category_N = deepest_categories(other.items)
        other._item_ND = torch.cat([self._item_ND, self._represent(layout.item, new.columns)])
        other._moment_ND = torch.cat([self._moment_ND, self._represent(layout.moment, features)])
        other._snapshots = None
        return other

    def with_snapshots(self, snapshots: Snapshots) -> ModelRanker:
        """Return this ranker with the item features of each request's own moment, as training has them."""
        other = copy.copy(self)
        other._snapshots = snapshots
        return other

    def score(self, requests: RequestBatch, items_BK: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the worth of each candidate, float32 `[B, K]`, `-inf` where there is none."""
        scores_BK = np.full(items_BK.shape, -np.inf, dtype=np.float32)
        there_BK = items_BK != NO_ITEM
        if there_BK.any():
            probability_RH = self.probabilities(requests, items_BK)
            scores_BK[there_BK] = probability_RH @ np.array(self.model.config.values)
        return scores_BK

    @torch.inference_mode()
    def probabilities(self, requests: RequestBatch, items_BK: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities of click, cart and purchase of the candidates there are, `[R, 3]`."""
        model, layout = self.model, self.model.layout
        there_BK = items_BK != NO_ITEM
        items_R, lengths_B = items_BK[there_BK], there_BK.sum(axis=1)
        columns = request_columns(requests)
        history, seen = history_of(requests, self._category_N, model.config.max_history)
        candidates = entries(lengths_B, self._category_N[items_R])
        pair = encode(
            layout.pair, pair_columns(columns, self.items, candidates.request.numpy(), items_R), model.config.rows
        )
        item_RD = self._item_ND.index_select(0, torch.from_numpy(items_R))
        logit_RH = model.logits(
            self._represent(layout.request, columns),
            torch.cat([item_RD, self._moment(items_R, np.repeat(requests.times_B, lengths_B))], dim=1),
            torch.from_numpy(pair.numbers_RX),
            candidates,
            self._item_ND[:, : model.key_width].index_select(0, torch.from_numpy(seen)[history.items]),
            history,
        )
        return self.calibration.probabilities(logit_RH.numpy())

    def _moment(self, items_R: npt.NDArray[np.int64], times_R: npt.NDArray[np.int64]) -> Tensor:
        """Return what is known of items at moments: now, or then."""
        if self._snapshots is None:
            return self._moment_ND.index_select(0, torch.from_numpy(items_R))
        return self._represent(self.model.layout.moment, self._snapshots.at(items_R, times_R))

    @torch.inference_mode()
    def _represent(self, side: Side, columns: Columns) -> Tensor:
        """Return the vectors and numbers of a side's rows."""
        shared_rows = self.model.config.rows
        encoded = encode(side, columns, shared_rows)
        parts = []
        for start in range(0, columns.rows, _ITEMS):
            rows = encoded.take(np.arange(start, min(start + _ITEMS, columns.rows)))
            (vectors,) = self.model.embedding(Values.of([(side, rows)], shared_rows))
            parts.append(torch.cat([vectors, torch.from_numpy(rows.numbers_RX)], dim=1))
        return torch.cat(parts)
