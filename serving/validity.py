"""Whether what is served may be served: the items of finished pages, looked up again.

Lists are made of the catalogue's own items, so none can be made up. What could go wrong is between list and answer: a
list kept for its next page, an answer given again, a catalogue that changed, a rule that a stage forgot. So every
page is checked against the catalogue as it is served now, whoever made the page and when.

Legend: `B` pages, `X` (page, item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernels.jagged import row_numbers
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.recommender import Recommender
from models.recommend.rules import Filters, with_rules

UNKNOWN, INELIGIBLE, SEEN = "unknown", "ineligible", "seen"


def invalid_items(
    maker: Recommender, batch: RequestBatch, filters: Sequence[Filters | None], pages: Sequence[Sequence[str]]
) -> dict[str, int]:
    """Count the items of pages that should not be there.

    Args:
        maker: Catalogue, facts and rules by now.
        batch: `B` requests; what earlier pages of their lists showed is among their excluded items.
        filters: What each asks of every item.
        pages: `B` pages, as item ids.

    Returns:
        How many are not in the catalogue (`unknown`), not available or not what was asked for (`ineligible`), or had
        or shown before (`seen`).
    """
    numbers_X = maker.catalogue.numbers([item for page in pages for item in page])
    known_X = numbers_X != NO_ITEM
    rows_X, items_X = row_numbers(np.array([len(page) for page in pages]))[known_X], numbers_X[known_X]
    ruled = with_rules(batch, maker.facts, filters, maker.config.exclude_seen)
    unseen_X = ruled.permits(rows_X, items_X)
    eligible_X = unseen_X if ruled.eligible is None else ruled.eligible.allows(rows_X, items_X)
    return {
        UNKNOWN: int((~known_X).sum()),
        INELIGIBLE: int((~eligible_X).sum()),
        SEEN: int((eligible_X & ~unseen_X).sum()),
    }
