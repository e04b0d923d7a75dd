"""What the tables know of users, as the online store would hold it after a back-fill.

Legend: `B` users.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.store.base import KnownUsers
from features.store.filling import user_attributes
from features.store.histories import histories_at, history_entries


def known_users(
    sequences: pa.Table, states: pa.Table, users: pa.Table, *, history_length: int, size: int
) -> Iterator[KnownUsers]:
    """Yield all users of these rows, `size` at a time, in order of their ids.

    Args:
        sequences: All rows of each user, `SEQUENCE_COLUMNS`.
        states: Columns `user_id` and `state` of `user_states`, one row per user.
        users: Columns of `clean_users`, one row per user; also those without events.
        history_length: Newest events kept per user.
        size: Users at a time.
    """
    entries = history_entries(sequences, history_length)
    flat_items = pc.list_flatten(sequences.column("items"))
    state_of = dict(zip(states.column("user_id").to_pylist(), states.column("state").to_pylist(), strict=True))
    described = users.filter(users.column("attributes").is_valid())
    attributes_of = dict(zip(described.column("user_id").to_pylist(), user_attributes(described), strict=True))
    mentioned = pa.chunked_array([*sequences.column("user_id").chunks, *users.column("user_id").chunks], pa.string())
    ids = pc.unique(mentioned).sort()
    rows = np.asarray(pc.fill_null(pc.index_in(ids, value_set=entries.users), -1), dtype=np.int64)
    for start in range(0, len(ids), size):
        names = ids.slice(start, size).to_pylist()
        yield KnownUsers(
            histories=histories_at(flat_items, entries, names, rows[start : start + size]),
            states=[state_of.get(name) for name in names],
            attributes=[attributes_of.get(name) for name in names],
        )
