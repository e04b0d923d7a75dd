"""What happened to items waits in buckets, and is folded bucket by bucket.

An item that many users see has a large state, and something happens to it in every range of the stream. So what happens
is only written down, per range and bucket of items, and one bucket after the other has its turn: all that waits of it
is folded at once, and a state is read and written once in `BUCKETS` ranges. Nobody misses it meanwhile: item features
hold as of a midnight, before which `fold_waiting` empties all buckets; those of late events come some ranges later.

A range that is put again finds by the version of a bucket's `item_turn` that it has been put; both are written at once.
A fold that was interrupted leaves rows that states have already; by their positions they count once.
Legend: `R` rows.
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

BUCKETS = len(ITEM_ROWS)
"""Of items, and the ranges of which a bucket keeps rows."""
MOST_ROWS = 100_000
"""A bucket of which more rows wait has its turn at once: memory stays bounded, whatever happens to one item."""
KeysOf = Callable[[pa.ChunkedArray], ItemKeys]
"""Returns the keys of items that are folded."""

_TURN = struct.Struct("<QQ")


class _Turn(NamedTuple):
    """Of a bucket: how many ranges brought rows, and how many rows wait."""

    ranges: int = 0
    rows: int = 0

    @classmethod
    def of(cls, held: Held | None) -> Self:
        return cls() if held is None else cls(*_TURN.unpack(held.payload))

    def has_come(self, bucket: int, rows: int) -> bool:
        """Return whether the bucket is folded with the next rows: once in `BUCKETS` ranges, not all in the same."""
        return (self.ranges + bucket) % BUCKETS == BUCKETS - 1 or self.rows + rows > MOST_ROWS

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
        rows: `R` rows of `ITEM_EVENT_ROWS`: all that the range has of the items of these buckets.
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
    written = list[NewBlob]()
    for bucket, start, size, blob in zip(buckets.tolist(), first.tolist(), sizes.tolist(), held, strict=True):
        if blob is not None and blob.version >= version:
            continue
        part, turn = ordered.slice(start, size), _Turn.of(blob)
        after = turn._replace(ranges=turn.ranges + 1, rows=turn.rows + size)
        if turn.has_come(bucket, size):
            after = after._replace(rows=0)
            written += _fold(store, bucket, part, keys_of, version, midnight_ms)
        else:
            view = ITEM_ROWS[turn.ranges % BUCKETS]
            written.append(NewBlob(view, str(bucket), version, 0, _payload(part)))
        written.append(after.blob(bucket, version))
    store.write_blobs(written)


def fold_waiting(
    store: OnlineStore,
    keys_of: KeysOf,
    *,
    version: Version,
    midnight_ms: int,
    most: int = BUCKETS,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Fold buckets of which something waits.

    Args:
        store: Holds and takes the views of buckets and of items.
        keys_of: Finds the keys of items.
        version: Generation to fold into, and position up to which all ranges were put.
        midnight_ms: The newest midnight, milliseconds.
        most: How many buckets to fold.
        check: Called before each bucket; raises if another process may write.

    Returns:
        Whether nothing waits any more.

    Raises:
        StoreUnavailableError: The store does not answer.
    """
    held = store.read_blobs([(ITEM_TURN, str(bucket)) for bucket in range(BUCKETS)], generation=version.generation)
    waiting = [(bucket, turn) for bucket, turn in enumerate(map(_Turn.of, held)) if turn.rows]
    for bucket, turn in waiting[:most]:
        check()
        emptied = _fold(store, bucket, ITEM_EVENT_ROWS.empty_table(), keys_of, version, midnight_ms)
        store.write_blobs([*emptied, turn._replace(rows=0).blob(bucket, version)])
    return len(waiting) <= most


def _fold(
    store: OnlineStore,
    bucket: int,
    new: pa.Table,
    keys_of: KeysOf,
    version: Version,
    midnight_ms: int,
) -> list[NewBlob]:
    """Fold all that waits of a bucket, and new rows; return what then is to be written in the place of what waited."""
    held = store.read_blobs([(view, str(bucket)) for view in ITEM_ROWS], generation=version.generation)
    found = [(view, blob) for view, blob in zip(ITEM_ROWS, held, strict=True) if blob is not None and blob.payload]
    # of later ranges are those that another process has put, while this one stood still
    parts = [(_rows(blob.payload), blob.version.position) for _, blob in found if blob.version <= version]
    parts.append((new, version.position))
    rows = pa.concat_tables([part for part, _ in parts])
    positions = np.repeat([position for _, position in parts], [part.num_rows for part, _ in parts])
    keys = keys_of(rows.column("item_id"))
    fold_items(store, rows, positions, keys, version=version, midnight_ms=midnight_ms)
    return [NewBlob(view, str(bucket), version, 0, b"") for view, _ in found]


def _payload(rows: pa.Table) -> bytes:
    (batch,) = rows.combine_chunks().to_batches()
    return batch.serialize().to_pybytes()


def _rows(payload: bytes) -> pa.Table:
    return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(payload), ITEM_EVENT_ROWS)])
