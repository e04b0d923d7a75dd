"""One range of the stream folded into the views of its items; and item features, as of the newest midnight.

Item features hold from one midnight (00:00 UTC) to the next, as in the batch table `item_features`: `fold_items` adds
to the states, and rewrites features only where an event from before the midnight came late; when a midnight passes,
`refresh_items` rewrites those of all items.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from features.definitions import Feature
from features.events import ItemKeys
from features.store.base import OnlineStore, Version


def fold_items(
    store: OnlineStore,
    events: pa.Table,
    pairs: pa.Table,
    keys: ItemKeys,
    *,
    version: Version,
    midnight_ms: int,
    features: Sequence[Feature] | None = None,
) -> int:
    """Fold events and co-visits into the views `item_state` and `item_features` of their items.

    Args:
        store: Holds and takes the views.
        events: Fresh rows of `features.schemas.EVENTS`: all of these items that the range has.
        pairs: Co-visits of these items, rows of `features.online.pairs.PAIR_ROWS`.
        keys: Of the catalogue.
        version: Generation to fold into, and position of the range's end.
        midnight_ms: The newest midnight, milliseconds; never before that of an earlier range.
        features: Default `FEATURES`.

    Returns:
        Number of items whose features were written.
    """
    raise NotImplementedError


def refresh_items(
    store: OnlineStore,
    item_ids: Sequence[str],
    keys: ItemKeys,
    *,
    version: Version,
    midnight_ms: int,
    features: Sequence[Feature] | None = None,
) -> int:
    """Write the features of items as of a midnight that has passed; returns of how many there were any.

    Args:
        store: Holds and takes the views.
        item_ids: Items, perhaps without events.
        keys: Of the catalogue.
        version: Generation to write into, and position up to which events are folded in.
        midnight_ms: The newest midnight, milliseconds.
        features: Default `FEATURES`.
    """
    raise NotImplementedError
