"""Pages of whole users -> entries: one per item of a page, in response order, with the split of its page.

Legend: `P` pages, `E` entries.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import DISLIKE, EVENT_CODE, EVENT_KINDS, POSITIVE_CODES
from pipelines.batch.arrow import Ints, Mask, milliseconds, string_ranks
from pipelines.batch.split import Splitter

PAGE_COLUMNS = ["request_id", "user_id", "timestamp", "items", "events", "event_times"]
"""What sequences and statistics need of `pages`."""


@dataclasses.dataclass(frozen=True)
class Entries:
    """Pages oldest first, user after user, and their visible entries in response order.

    ::

        page_E [ 0 0 0 | 1 1 | ... ]    items_E, code_E, time_E alike; pages without visible entries are left out

    Attributes:
        pages: `P` rows with `request_id`, `user_id`, `timestamp`.
        user_P: Rank of the user's id.
        split_P: Position in `SPLITS`.
        page_E: Row of `pages`.
        items_E: Item ids.
        code_E: Event codes.
        time_E: Event times, milliseconds.
        hidden: Number of entries that were left out, because they happened after the end of their split.
    """

    pages: pa.Table
    user_P: Ints
    split_P: Ints
    page_E: Ints
    items_E: pa.Array
    code_E: Ints
    time_E: Ints
    hidden: int

    @property
    def page_lengths(self) -> Ints:
        """Number of entries of each page."""
        return np.bincount(self.page_E, minlength=len(self.user_P))

    @property
    def positive(self) -> Mask:
        """Entries with a click, a cart or a purchase."""
        return np.isin(self.code_E, POSITIVE_CODES)


def make_entries(pages: pa.Table, splitter: Splitter) -> Entries:
    """Explode pages.

    Args:
        pages: All pages of some users, in any order, with at least `PAGE_COLUMNS`.
        splitter: Decides splits and what is visible.

    Returns:
        Entries in response order: purchase, cart, click, impression, dislike; ties by event time, then position.
    """
    user, time = string_ranks(pages.column("user_id")), milliseconds(pages.column("timestamp"))
    order = np.lexsort((string_ranks(pages.column("request_id")), time, user))
    pages = pages.take(pa.array(order)).combine_chunks()
    user, time = user[order], time[order]
    split_P = splitter.split_of_pages(user, time)
    events = pages.column("events").combine_chunks()
    page_E = np.asarray(pc.list_parent_indices(events), dtype=np.int64)
    code_E = np.asarray(pc.index_in(events.flatten(), pa.array(EVENT_KINDS)), dtype=np.int64)
    time_E = milliseconds(pages.column("event_times").combine_chunks().flatten())
    visible = splitter.visible(split_P[page_E], time_E)
    strength = np.where(code_E == EVENT_CODE[DISLIKE], -1, code_E)
    response = np.lexsort((np.arange(len(page_E)), time_E, -strength, page_E))
    response = response[visible[response]]
    return _without_empty_pages(
        Entries(
            pages=pages.select(["request_id", "user_id", "timestamp"]),
            user_P=user,
            split_P=split_P,
            page_E=page_E[response],
            items_E=pages.column("items").combine_chunks().flatten().take(pa.array(response)),
            code_E=code_E[response],
            time_E=time_E[response],
            hidden=int(len(visible) - visible.sum()),
        )
    )


def _without_empty_pages(entries: Entries) -> Entries:
    filled = entries.page_lengths > 0
    if filled.all():
        return entries
    return dataclasses.replace(
        entries,
        pages=entries.pages.filter(pa.array(filled)),
        user_P=entries.user_P[filled],
        split_P=entries.split_P[filled],
        page_E=(np.cumsum(filled) - 1)[entries.page_E],
    )
