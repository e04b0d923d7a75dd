"""One range of the stream folded into all views of its users.

Each view has a version of its own and is folded on from what it holds, if that is of an earlier version: a fold that
was interrupted between any two writes, and is repeated with the same rows, ends as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from features.events import Events, ItemKeys
from features.online.config import OnlineConfig
from features.online.histories import fold_histories
from features.online.pairs import new_pairs
from features.online.recent import NO_PAGE, Mask, Recent, fresh_rows, pruned
from features.online.user_states import fold_user_states
from features.schemas import HISTORY_CODES
from features.store.base import HISTORY, SEEN, STATE, Held, NewBlob, OnlineStore, Version
from features.store.codec import (
    EMPTY_HISTORY,
    history_payload,
    join_histories,
    read_history_payload,
    split_histories,
)
from kernels.jagged import IntArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldedUsers:
    """What became of a range's events.

    Attributes:
        fresh: Mask of the rows that are no duplicates.
        pairs: Co-visits made (count 1) and taken back (-1), rows of `features.online.pairs.PAIR_ROWS`.
    """

    fresh: Mask
    pairs: pa.Table


def fold_users(
    store: OnlineStore,
    events: pa.Table,
    keys: ItemKeys,
    *,
    version: Version,
    config: OnlineConfig,
) -> FoldedUsers:
    """Fold events into the views `seen`, `state` and `history` of their users.

    Ranges are folded in order; a range may be folded again, with the same rows in any order, before the next one is.

    Args:
        store: Holds and takes the views.
        events: Rows of `features.schemas.EVENTS` with event ids: all of these users that the range has.
        keys: Of the catalogue.
        version: Generation to fold into, and position of the range's end.
        config: Lateness, bursts and lengths.

    Raises:
        StoreUnavailableError: The store does not answer.
    """
    names = events.column("user_id").combine_chunks().dictionary_encode()
    users, entity = names.dictionary.to_pylist(), np.asarray(names.indices, dtype=np.int64)
    held = _read(store, users, version)
    rows = Recent.of_rows(events, entity)
    before = recent_before(held[SEEN], version, config)
    fresh = fresh_rows(rows, before)
    new = rows.take(fresh)
    recent = before.joined(new)
    newest = _newest(recent, len(users))
    happened = Events.of_rows(events, entity, keys).take(fresh)
    blobs = (  # each view is made while the store works on the one before
        _seen_blobs(users, recent, new, newest, version),
        _state_blobs(users, held[STATE], happened, newest, version),
        _history_blobs(users, held[HISTORY], recent, version, config),
    )
    store.write_blobs(itertools.chain.from_iterable(blobs))
    return FoldedUsers(fresh=fresh, pairs=new_pairs(recent))


def recent_before(held: Sequence[Held | None], version: Version, config: OnlineConfig) -> Recent:
    """Return the events of users that earlier ranges brought, as far as this one may still meet them.

    Args:
        held: View `seen` of users 0, 1, ...
        version: Of this range. What was held before it was folded, too, is told by the mark `latest`.
        config: How long events are kept.
    """
    recent = Recent.of_payloads([None if blob is None else blob.payload for blob in held])
    folded = np.array([blob is not None and blob.version == version for blob in held], dtype=bool)
    if folded.any():
        again = folded[recent.entity]
        before = recent.take(again & ~recent.latest).joined(pruned(recent.take(~again), config))
    else:
        before = pruned(recent, config)
    return dataclasses.replace(before, latest=np.zeros(len(before), bool))


def _seen_blobs(users: list[str], recent: Recent, new: Recent, newest: IntArray, version: Version) -> Iterator[NewBlob]:
    touched = np.unique(new.entity)
    payloads = recent.of_users(touched, len(users)).payloads(len(touched))
    for user, payload in zip(touched.tolist(), payloads, strict=True):
        yield NewBlob(SEEN, users[user], version, int(newest[user]), payload)


def _state_blobs(
    users: list[str],
    held: Sequence[Held | None],
    events: Events,
    newest: IntArray,
    version: Version,
) -> Iterator[NewBlob]:
    chosen, number = _behind(held, events.entity, version)
    events = events.take(number[events.entity] >= 0)
    states = [_payload(held[user]) for user in chosen]
    folded = fold_user_states(states, dataclasses.replace(events, entity=number[events.entity]))
    for user, state in zip(chosen.tolist(), folded, strict=True):
        yield NewBlob(STATE, users[user], version, int(newest[user]), state)


def _history_blobs(
    users: list[str], held: Sequence[Held | None], recent: Recent, version: Version, config: OnlineConfig
) -> Iterator[NewBlob]:
    moving = recent.latest & (np.isin(recent.code, HISTORY_CODES) | (recent.page == NO_PAGE))
    chosen, _ = _behind(held, recent.entity[moving], version)
    parts = [EMPTY_HISTORY if (blob := held[user]) is None else read_history_payload(blob.payload) for user in chosen]
    histories = join_histories([users[user] for user in chosen], parts)
    folded = fold_histories(histories, recent.of_users(chosen, len(users)), config)
    for user, part in zip(folded.user_ids, split_histories(folded, length=config.history_length), strict=True):
        if len(part.times):
            yield NewBlob(HISTORY, user, version, int(part.times[-1]), history_payload(part))


def _behind(held: Sequence[Held | None], entity: IntArray, version: Version) -> tuple[IntArray, IntArray]:
    """Return the users with events whose view is of an earlier version; and their places among these, -1 of others."""
    late = np.array([blob is None or blob.version < version for blob in held], dtype=bool)
    chosen = np.flatnonzero(late & (np.bincount(entity, minlength=len(held)) > 0))
    number = np.full(len(held), -1, np.int64)
    number[chosen] = np.arange(len(chosen))
    return chosen, number


def _newest(recent: Recent, users: int) -> IntArray:
    newest = np.zeros(users, np.int64)
    np.maximum.at(newest, recent.entity, recent.time)
    return newest


def _payload(held: Held | None) -> bytes | None:
    return None if held is None else held.payload


def _read(store: OnlineStore, users: list[str], version: Version) -> dict[str, list[Held | None]]:
    views = (SEEN, STATE, HISTORY)
    blobs = store.read_blobs([(view, user) for view in views for user in users], generation=version.generation)
    return {view: blobs[place * len(users) : (place + 1) * len(users)] for place, view in enumerate(views)}
