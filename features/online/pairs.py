"""Co-visits that new events make, and those that they take back.

A pair of items is found from a user's consecutive positive events (`features.events.co_visits`), so a late event
between two others makes pairs with both and may part them: what is emitted is the difference between the pairs of all
events and those of the events before, a row with count 1 or -1 each.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.events import CO_VISIT_ROWS, Events, co_visits
from features.online.recent import NO_KEYS, Recent
from features.schemas import TIMESTAMP
from features.states import ENTITY, State, concat_states, sum_rows, take_rows
from kernels.jagged import IntArray

PAIR_ROWS = CO_VISIT_ROWS.append(pa.field("count", pa.int64()))
"""Rows of `CO_VISIT_ROWS` and how often each was made (1) or taken back (-1)."""
_KEYS = (ENTITY, "own", "other", "time", "code")


def new_pairs(recent: Recent) -> pa.Table:
    """Return rows of `PAIR_ROWS`.

    Args:
        recent: Recent events of users with the new ones, marked `latest`, in order.
    """
    touched = np.zeros(int(recent.entity.max(initial=-1)) + 1, bool)
    touched[recent.entity[recent.latest & recent.positive]] = True
    rows = np.flatnonzero(recent.positive & touched[recent.entity])
    after, before = _pairs(recent, rows, 1), _pairs(recent, rows[~recent.latest[rows]], -1)
    sums = sum_rows(concat_states([after, before]), _KEYS, "count")
    changed = take_rows(sums, np.flatnonzero(sums["count"]))
    items, named = np.unique(recent.item[rows], return_index=True)
    columns = [
        recent.ids.take(pa.array(rows[named[np.searchsorted(items, changed["own"])]])),
        pa.array(changed["time"]).cast(TIMESTAMP),
        pa.array(changed["code"].astype(np.int8)),
        changed["other"],
        changed["count"],
    ]
    return pa.table(columns, schema=PAIR_ROWS)


def _pairs(recent: Recent, rows: IntArray, count: int) -> State:
    """Return a row per co-visit among these events: of the item `own`, about the item `other`."""
    events = Events(
        entity=recent.entity[rows],
        time=recent.time[rows],
        code=recent.code[rows],
        item=recent.item[rows],
        keys=NO_KEYS,
    )
    own, pairs = co_visits(events)
    return {
        ENTITY: pairs.entity,
        "own": events.item[own],
        "other": pairs.item,
        "time": pairs.time,
        "code": pairs.code.astype(np.int64),
        "count": np.full(len(own), count, np.int64),
    }
