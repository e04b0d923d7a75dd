"""What happened to items waits in buckets, and is folded bucket by bucket.

An item that many users see has a large state, and something happens to it in every range of the stream. So what happens
is only written down, per range and bucket of items, and one bucket after the other has its turn: all that waits of it
is folded at once, and a state is read and written once in `BUCKETS` ranges. Nobody misses it meanwhile: item features
hold as of a midnight, before which `fold_waiting` empties all buckets; those of late events come some ranges later.

A bucket's `item_turn` says how many ranges have brought it rows and how many of these are folded; it is written last,
and by its version a range that is put again finds that it has been put. What it names stays until it names it no more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa

from features.events import ItemKeys
from features.online.items import ITEM_EVENT_ROWS, fold_items
from features.store.base import ITEM_ROWS, ITEM_TURN, Held, NewBlob, OnlineStore, Version
from kernels.hashing import hash_strings
from kernels.jagged import IntArray

BUCKETS = 16
"""Of items, and the most ranges of which a bucket keeps rows."""
MOST_ROWS = 100_000
"""A bucket of which more rows wait has its turn at once: memory stays bounded, whatever happens to one item."""
KeysOf = Callable[[pa.ChunkedArray], ItemKeys]
"""Returns the keys of items that are folded."""

_TURN = struct.Struct("<QQQ")


class _Turn(NamedTuple):
    """Of a bucket: ranges that brought rows, how many of them are folded, and the rows of the others."""

    ranges: int = 0
    folded: int = 0
    rows: int = 0

    @classmethod
    def of(cls, held: Held | None) -> Self:
        return cls() if held is None else cls(*_TURN.unpack(held.payload))

    def has_come(self, bucket: int, rows: int) -> bool:
        """Return whether the bucket is folded with the next rows: once in `BUCKETS` ranges, not all in the same."""
        return (self.ranges + bucket) % BUCKETS == BUCKETS - 1 or self.rows + rows > MOST_ROWS

    def put(self, rows: int) -> Self:
        return self._replace(ranges=self.ranges + 1, rows=self.rows + rows)

    def taken(self) -> Self:
        return self._replace(folded=self.ranges, rows=0)

    def blob(self, bucket: int, version: Version) -> NewBlob:
        return NewBlob(ITEM_TURN, str(bucket), version, 0, _TURN.pack(*self))


def bucket_of(item_ids: pa.ChunkedArray) -> IntArray:
    """Return the bucket of each item."""
    return (hash_strings(item_ids) % np.uint64(BUCKETS)).astype(np.int64)


def put_items(
    store: OnlineStore,
    rows: pa.Table,
    keys_of: KeysOf,
    *,
    version: Version,
    midnight_ms: int,
) -> None:
    """Keep what happened to items in a range, and fold the buckets whose turn has come.

    Ranges are put in order; a range may be put again, with the same rows in any order, before the next one is.

    Args:
        store: Holds and takes the views of buckets and of items.
        rows: Rows of `ITEM_EVENT_ROWS`: all that the range has of the items of these buckets.
        keys_of: Finds the keys of items.
        version: Generation to fold into, and position of the range's end.
        midnight_ms: The newest midnight, milliseconds; never before that of an earlier range.

    Raises:
        StoreUnavailableError: The store does not answer.
    """
    of_row = bucket_of(rows.column("item_id"))
    order = np.argsort(of_row, kind="stable")
    ordered, (buckets, first) = rows.take(pa.array(order)), np.unique(of_row[order], return_index=True)
    sizes = np.diff(first, append=len(of_row))
    held = store.read_blobs([(ITEM_TURN, str(bucket)) for bucket in buckets], generation=version.generation)
    kept, turns = list[NewBlob](), list[NewBlob]()
    for bucket, start, size, blob in zip(buckets.tolist(), first.tolist(), sizes.tolist(), held, strict=True):
        if blob is not None and blob.version >= version:
            continue
        part, turn = ordered.slice(start, size), _Turn.of(blob)
        if turn.has_come(bucket, size):
            _fold(store, bucket, turn, part, keys_of, version, midnight_ms)
            after = turn.put(size).taken()
        else:
            kept.append(NewBlob(ITEM_ROWS, _place(bucket, turn.ranges), version, 0, _payload(part)))
            after = turn.put(size)
        turns.append(after.blob(bucket, version))
    store.write_blobs([*kept, *turns])


def fold_waiting(
    store: OnlineStore,
    keys_of: KeysOf,
    *,
    version: Version,
    midnight_ms: int,
    most: int = BUCKETS,
) -> bool:
    """Fold buckets of which something waits.

    Args:
        store: See `put_items`, as for the other arguments.
        keys_of: Finds the keys of items.
        version: Generation to fold into, and position up to which ranges were put.
        midnight_ms: The newest midnight.
        most: How many buckets to fold.

    Returns:
        Whether nothing waits any more.

    Raises:
        StoreUnavailableError: The store does not answer.
    """
    held = store.read_blobs([(ITEM_TURN, str(bucket)) for bucket in range(BUCKETS)], generation=version.generation)
    waiting = [(bucket, turn) for bucket, turn in enumerate(map(_Turn.of, held)) if turn.folded < turn.ranges]
    for bucket, turn in waiting[:most]:
        _fold(store, bucket, turn, ITEM_EVENT_ROWS.empty_table(), keys_of, version, midnight_ms)
        store.write_blobs([turn.taken().blob(bucket, version)])
    return len(waiting) <= most


def _fold(
    store: OnlineStore,
    bucket: int,
    turn: _Turn,
    new: pa.Table,
    keys_of: KeysOf,
    version: Version,
    midnight_ms: int,
) -> None:
    places = [(ITEM_ROWS, _place(bucket, number)) for number in range(turn.folded, turn.ranges)]
    held = store.read_blobs(places, generation=version.generation)
    rows = pa.concat_tables([*(_rows(blob.payload) for blob in held if blob is not None), new])
    fold_items(store, rows, keys_of(rows.column("item_id")), version=version, midnight_ms=midnight_ms)


def _place(bucket: int, number: int) -> str:
    """Return where the rows of a bucket's range lie; what lay there before has been folded."""
    return f"{bucket}.{number % BUCKETS}"


def _payload(rows: pa.Table) -> bytes:
    (batch,) = rows.combine_chunks().to_batches()
    return batch.serialize().to_pybytes()


def _rows(payload: bytes) -> pa.Table:
    return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(payload), ITEM_EVENT_ROWS)])
