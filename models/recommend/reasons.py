"""Why a page is shorter than asked, in words for whoever asked."""

from __future__ import annotations

import numpy as np

from models.recommend.interface import RequestBatch
from models.recommend.rules import Filters


def why_short(ruled: RequestBatch, row: int, filters: Filters | None, found: int, exclude_seen: bool) -> str:
    """Return why a page holds fewer items than wanted.

    Args:
        ruled: Requests after `rules.with_rules`.
        row: The request that the page answers.
        filters: What it asked of every item.
        found: Items on the page.
        exclude_seen: Whether the user's whole history is among the excluded items, or only what was disliked.
    """
    assert ruled.eligible is not None, "the rules set it"
    mask = ruled.eligible.mask_of(row)
    own = ruled.excluded_items[ruled.excluded_offsets[row] : ruled.excluded_offsets[row + 1]]
    taken = int(np.count_nonzero(mask.allowed_N[own]))
    left = mask.count - taken
    asked = "" if filters is None else filters.text
    passes = f"passes the filters {asked}" if asked else "is available"
    passing = f"passing the filters {asked}" if asked else "available"
    gone = "already seen" if exclude_seen else "disliked"
    if not mask.count:
        return f"no item of the catalogue {passes} at this moment"
    if not left:
        return f"every item that {passes} at this moment is {gone} or excluded ({taken})"
    if found < left:
        return f"only {found} of the {left} items that may be shown were found: a retriever did not answer"
    if not taken:
        return f"there are no more than {left} items {passing} at this moment"
    return f"{left} left of the {mask.count} items {passing} at this moment: {taken} {gone} or excluded"
