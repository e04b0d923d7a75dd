"""Which served pages came before: per user, the requests of the last lateness window, in the store.

A page is a duplicate if an earlier range had its request; a range that is taken up again decides as it did before: what
it wrote is told by its position, and what is let go is chosen by earlier ranges' pages alone. A payload holds requests,
times and positions, a column of little-endian words each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from features.states import ENTITY, State, concat_states, take_rows
from features.store.base import SEEN_PAGES, Held, NewBlob, OnlineStore, Version
from kernels.hashing import hash_strings
from kernels.jagged import IntArray, offsets_from_lengths, run_starts
from pipelines.batch.arrow import Mask, milliseconds

MOST_PAGES = 10_000
"""Newest pages remembered per user, 24 bytes each, so that a machine that asks all day cannot fill the store."""
_COLUMNS = ("request", "time", "position")


def fresh_pages(store: OnlineStore, pages: pa.Table, *, version: Version, lateness_ms: int) -> Mask:
    """Return which pages are no duplicates, and remember them.

    Args:
        store: Where they are remembered.
        pages: Rows of `features.schemas.PAGES`; all that the range has of these users.
        version: Generation and position of the range they came in.
        lateness_ms: How much later than its time a page can come, and so can its duplicate.
    """
    users = pages.column("user_id").combine_chunks().dictionary_encode()
    names = users.dictionary.to_pylist()
    held = _read(store.read_blobs([(SEEN_PAGES, name) for name in names], generation=version.generation))
    held = _pruned(take_rows(held, held["position"] < version.position), len(names), lateness_ms)
    new = {
        ENTITY: np.asarray(users.indices).astype(np.int64),
        "request": hash_strings(pages.column("request_id")).view(np.int64),
        "time": milliseconds(pages.column("timestamp")),
        "position": np.full(pages.num_rows, version.position, np.int64),
    }
    fresh = _first(held, new)
    known = concat_states([held, take_rows(new, fresh)])
    known = take_rows(known, np.argsort(known[ENTITY], kind="stable"))
    newest = _newest(known, len(names))
    edges = offsets_from_lengths(np.bincount(known[ENTITY], minlength=len(names))).tolist()
    parts = (take_rows(known, np.arange(*edge)) for edge in itertools.pairwise(edges))
    store.write_blobs(
        NewBlob(SEEN_PAGES, name, version, time, _payload(part))
        for name, time, part in zip(names, newest.tolist(), parts, strict=True)
    )
    return fresh


def _first(held: State, new: State) -> Mask:
    """Return which new rows are the first of their user and request: none is held, and no other new one is older."""
    both = concat_states([held, new])
    order = np.lexsort((both["time"], both["position"], both["request"], both[ENTITY]))
    first = np.zeros(len(order), bool)
    first[order[run_starts(both[ENTITY][order], both["request"][order])]] = True
    return first[len(held[ENTITY]) :]


def _pruned(held: State, users: int, lateness_ms: int) -> State:
    """Return the pages of each user of which a duplicate may still come, at most the newest `MOST_PAGES`."""
    held = take_rows(held, held["time"] >= _newest(held, users)[held[ENTITY]] - lateness_ms)
    order = np.lexsort((held["time"], held[ENTITY]))
    ends = np.cumsum(np.bincount(held[ENTITY], minlength=users))
    from_end = ends[held[ENTITY][order]] - np.arange(len(order))
    return take_rows(held, order[from_end <= MOST_PAGES])


def _newest(pages: State, users: int) -> IntArray:
    """Return the time of the newest page of each user, 0 without one."""
    newest = np.zeros(users, np.int64)
    np.maximum.at(newest, pages[ENTITY], pages["time"])
    return newest


def _read(blobs: Sequence[Held | None]) -> State:
    parts = [np.frombuffer(blob.payload if blob else b"", "<i8").reshape(len(_COLUMNS), -1) for blob in blobs]
    columns: IntArray = np.concatenate([np.zeros((len(_COLUMNS), 0), np.int64), *parts], axis=1)
    owner = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    return {ENTITY: owner, **dict(zip(_COLUMNS, columns, strict=True))}


def _payload(rows: State) -> bytes:
    return np.stack([rows[name] for name in _COLUMNS]).astype("<i8").tobytes()
