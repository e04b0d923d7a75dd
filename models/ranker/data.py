"""Examples of the ranker as columns of all sides, and as encoded rows from which batches are cut.

What a log has one row of for every candidate is a few numbers; what is known of an item at a moment is held once for
all candidates of a day, and requests are encoded batch by batch: their ids take four times the room of their columns.
Legend: `P` pages, `R` candidates of all pages, `N` items of the catalogue, `M` (item, day) pairs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from features.columns import Columns, stacked
from features.folds import DAY_MS
from kernels.jagged import concat_ranges, row_numbers
from models.inputs.items import BRAND, CATEGORY, ITEM_ID
from models.inputs.requests import request_columns
from models.ranker.batch import deepest_categories, entries, history_of
from models.ranker.config import RankerConfig
from models.ranker.cross import pair_columns
from models.ranker.encoding import EncodedRows, encode
from models.ranker.examples import RankerExamples
from models.ranker.layout import Layout, make_layout
from models.ranker.model import RankerBatch
from models.ranker.unified import Values
from models.recommend.interface import Snapshots

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]
_PAGES = 16_384
"""Pages whose pairs are looked at together; bounds memory."""
HISTORY_FEATURES = (ITEM_ID, CATEGORY, BRAND)
"""What is known of the items of a history."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sides:
    """The columns of examples: `P` rows of `request`, `N` of `item`, `M` of `moment`, `R` of `pair`.

    `moment_R` is the row of `moment` of each candidate.
    """

    request: Columns
    item: Columns
    moment: Columns
    moment_R: Rows
    pair: Columns

    @classmethod
    def of(cls, examples: RankerExamples, items: Columns, snapshots: Snapshots) -> Sides:
        """Collect what is known of each page, item and candidate, strictly before the page.

        Args:
            examples: Pages and candidates.
            items: `item_columns` of the catalogue.
            snapshots: Item features over time.
        """
        request = request_columns(examples.requests)
        moment, moment_R = _moments(examples, snapshots)
        return cls(request=request, item=items, moment=moment, moment_R=moment_R, pair=_pairs(request, items, examples))

    def layout(self, config: RankerConfig) -> Layout:
        """Decide the layout; these must be the training rows."""
        return make_layout(
            config,
            request=self.request,
            item=self.item,
            moment=self.moment,
            moment_R=self.moment_R,
            pair=self.pair,
            history=HISTORY_FEATURES,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerData:
    """Examples, encoded.

    Attributes:
        examples: Pages, items, labels.
        layout: What the rows hold.
        request: `P` rows, not encoded yet.
        item, history: `N` rows.
        moment, moment_R: `M` rows, and that of each candidate.
        pair: `R` rows.
        category_N: `deepest_categories`.
        shared_rows: Rows of the shared table.
        max_history: Newest entries that count.
    """

    examples: RankerExamples
    layout: Layout
    request: Columns
    item: EncodedRows
    history: EncodedRows
    moment: EncodedRows
    moment_R: Rows
    pair: EncodedRows
    category_N: Ints
    shared_rows: int
    max_history: int

    @classmethod
    def of(cls, config: RankerConfig, layout: Layout, examples: RankerExamples, sides: Sides) -> RankerData:
        """Encode the columns of examples."""
        return cls(
            examples=examples,
            layout=layout,
            request=sides.request,
            item=encode(layout.item, sides.item, config.rows),
            history=encode(layout.history_side, sides.item, config.rows),
            moment=encode(layout.moment, sides.moment, config.rows),
            moment_R=sides.moment_R,
            pair=encode(layout.pair, sides.pair, config.rows),
            category_N=deepest_categories(sides.item),
            shared_rows=config.rows,
            max_history=config.max_history,
        )

    def batch(self, pages: Ints, share: float) -> RankerBatch:
        """Return the batch of these pages; see `RankerBatch.share`."""
        examples = self.examples
        lengths_B = np.diff(examples.offsets)[pages]
        rows_R = concat_ranges(examples.offsets[pages], lengths_B)
        items_R = examples.items_R[rows_R]
        distinct, place_R = np.unique(items_R, return_inverse=True)
        history, history_items = history_of(examples.requests.take(pages), self.category_N, self.max_history)
        request = encode(self.layout.request, self.request.take(pages), self.shared_rows)
        item, seen = self.item.take(distinct), self.history.take(history_items)
        moment = self.moment.take(self.moment_R[rows_R])
        parts = [
            (self.layout.request, request),
            (self.layout.item, item),
            (self.layout.moment, moment),
            (self.layout.history_side, seen),
        ]
        return RankerBatch(
            values=Values.of(parts, self.shared_rows),
            request_BX=torch.from_numpy(request.numbers_RX),
            item_UX=torch.from_numpy(item.numbers_RX),
            moment_RX=torch.from_numpy(moment.numbers_RX),
            pair_RX=torch.from_numpy(self.pair.numbers_RX[rows_R]),
            candidates=entries(lengths_B, self.category_N[items_R]),
            item_R=torch.from_numpy(place_R.reshape(-1)),
            history=history,
            label_RH=torch.from_numpy(examples.label_RH[rows_R]),
            rate_R=torch.from_numpy(examples.rate_R[rows_R]),
            share=share,
        )


def _moments(examples: RankerExamples, snapshots: Snapshots) -> tuple[Columns, Rows]:
    """Return what is known of items, a row for every item and day of the candidates, and the row of each candidate."""
    day_R = examples.times // DAY_MS
    first = day_R.min(initial=0)
    days = int(day_R.max(initial=0) - first) + 1
    distinct, row_R = np.unique(examples.items_R * days + (day_R - first), return_inverse=True)
    midnights = (distinct % days + first) * DAY_MS
    return snapshots.at(distinct // days, midnights), row_R.reshape(-1).astype(np.int32)


def _pairs(request: Columns, items: Columns, examples: RankerExamples) -> Columns:
    """Return `pair_columns` of all candidates."""
    parts = []
    for start in range(0, len(examples), _PAGES):
        offsets = examples.offsets[start : start + _PAGES + 1]
        pages = np.arange(start, start + len(offsets) - 1)
        items_R = examples.items_R[offsets[0] : offsets[-1]]
        parts.append(pair_columns(request.take(pages), items, row_numbers(np.diff(offsets)), items_R))
    return stacked(parts)
