"""Co-visits that new events make, and those that they take back.

A pair of items is found from a user's consecutive positive events (`features.events.co_visits`). A new event makes
pairs with its neighbours; a late one, between two others, also parts them: what they had made is taken back.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.events import CO_VISIT_ROWS, PAIR_DISTANCE, Events, close_rows, positive_order
from features.online.recent import NO_KEYS, Recent
from features.schemas import TIMESTAMP

PAIR_ROWS = CO_VISIT_ROWS.append(pa.field("count", pa.int8()))
"""Rows of `CO_VISIT_ROWS` and how often each was made (1) or taken back (-1)."""


def new_pairs(recent: Recent) -> pa.Table:
    """Return rows of `PAIR_ROWS`.

    Args:
        recent: Recent events of users with the new ones, marked `latest`, in order.
    """
    touched = np.zeros(int(recent.entity.max(initial=-1)) + 1, bool)
    touched[recent.entity[recent.latest & recent.positive]] = True
    rows = recent.take(touched[recent.entity])
    events = Events(entity=rows.entity, time=rows.time, code=rows.code, item=rows.item, keys=NO_KEYS)
    order = positive_order(events)
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(order))
    earlier, later = close_rows(events, order)
    made = rows.latest[earlier] | rows.latest[later]
    before, after = close_rows(events, order[~rows.latest[order]])
    parted = place[after] - place[before] > PAIR_DISTANCE
    first = np.append(earlier[made], before[parted])
    second = np.append(later[made], after[parted])
    count = np.repeat([1, -1], [made.sum(), parted.sum()])
    own, others, moment = np.append(first, second), np.append(second, first), np.append(second, second)
    columns = [
        rows.ids.take(pa.array(own)),
        pa.array(rows.time[moment]).cast(TIMESTAMP),
        pa.array(rows.code[moment]),
        rows.item[others],
        np.append(count, count),
    ]
    return pa.table(columns, schema=PAIR_ROWS)
