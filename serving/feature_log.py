"""What was read for a share of the pages, logged beside them, for `pagewise check-features`.

A page is made from what the store held of its user at that moment, and of the items when they were last read. Both go
to the stream as they were read: packed, with their versions. Whoever computes the same features later from the events
sees whether the service had what the models are trained on.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from features.columns import Columns
from features.semantic_ids import Catalogue
from features.store.base import STATE, KnownUsers
from features.store.feature_codec import features_payloads, features_schema
from features.stream.records import FEATURES
from serving.page_log import PageLog
from serving.shares import in_share

_SALT = "features"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemsRead:
    """Features of items as the service has them.

    Attributes:
        columns: A row per item of the catalogue at that time; items that came later have none.
        time: When they were read, milliseconds since 1970 UTC.
    """

    columns: Columns
    time: int


class FeatureLog:
    """Adds rows of `features.schemas.FEATURES_READ` to the page log's queue; nothing it does can fail a page.

    Args:
        queue: Sends rows to the stream.
        share: Of the pages, 0 to 1, drawn by the hash of their request ids.
    """

    def __init__(self, queue: PageLog, share: float) -> None:
        self._queue, self._share = queue, share

    def add(
        self,
        request_ids: Sequence[str],
        users: KnownUsers,
        pages: Sequence[Sequence[str]],
        now: int,
        catalogue: Catalogue,
        items: ItemsRead | None,
    ) -> None:
        """Log what was read for those of these pages that are drawn.

        Args:
            request_ids: `B` pages.
            users: `B` users, as read from the store.
            pages: Items of each page; nothing is logged of an empty one.
            now: The pages' moment, milliseconds since 1970 UTC.
            catalogue: Numbers the items.
            items: What is known of them; None while nothing was read.
        """
        if not self._share:
            return
        try:
            for row, drawn in enumerate(in_share(request_ids, self._share, _SALT)):
                if drawn and pages[row]:
                    read = {"request_id": request_ids[row], "timestamp": now, **_of_user(users, row)}
                    self._queue.add(read | _of_items(pages[row], catalogue, items), FEATURES)
        except Exception:  # whatever it is: the pages are good
            _log.exception("what was read for %d pages is not logged", len(request_ids))
            self._queue.count(FEATURES, "dropped", len(request_ids))


def _of_user(users: KnownUsers, row: int) -> dict[str, object]:
    state, user_id = users.states[row], users.histories.user_ids[row]
    if state is None:
        return {"user_id": user_id}
    freshness = users.freshness[STATE]
    return {
        "user_id": user_id,
        "state": _text(state),
        "generation": int(freshness.generations[row]),
        "position": int(freshness.positions[row]),
        "event_time": int(freshness.event_times[row]),
    }


def _of_items(page: Sequence[str], catalogue: Catalogue, items: ItemsRead | None) -> dict[str, object]:
    if items is None:
        return {"items": list(page)}
    numbers = catalogue.numbers(list(page))
    known = np.flatnonzero((numbers >= 0) & (numbers < items.columns.rows))
    payloads = dict(zip(known.tolist(), features_payloads(items.columns.take(numbers[known])), strict=True))
    return {
        "items": list(page),
        "item_features": [_text(payloads[place]) if place in payloads else None for place in range(len(page))],
        "item_layout": features_schema(),
        "items_read": items.time,
    }


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
