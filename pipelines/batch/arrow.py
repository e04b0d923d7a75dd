"""Arrow tables on their way through a shuffle: IPC bytes, and splitting by a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kernels.hashing import hash_strings
from kernels.jagged import run_starts
from kernels.ranks import string_ranks as string_ranks
from pipelines.batch.spilling import fetch

DAY_MS = 86_400_000
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_FULL_SCHEMA = b"pagewise.schema"


def encode(rows: pa.Table) -> bytes:
    """Serialise a table; slices are cut to their own rows, columns without any value take no bytes."""
    empty = [rows.num_rows and column.null_count == rows.num_rows for column in rows.columns]
    columns = [
        pa.nulls(rows.num_rows) if absent else column for absent, column in zip(empty, rows.columns, strict=True)
    ]
    slim = pa.table(columns, names=rows.column_names)
    slim = slim.replace_schema_metadata({_FULL_SCHEMA: rows.schema.remove_metadata().serialize().to_pybytes()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, slim.schema) as writer:
        writer.write_table(slim)
    return sink.getvalue().to_pybytes()


def decode(blobs: Iterable[bytes]) -> pa.Table:
    """Concatenate what `encode` wrote, wherever it waits, in the schema it had, one chunk per column."""
    tables = [pa.ipc.open_stream(fetch(blob)).read_all() for blob in blobs]
    schema = pa.ipc.read_schema(pa.py_buffer(tables[0].schema.metadata[_FULL_SCHEMA]))
    rows = pa.concat_tables([table.replace_schema_metadata() for table in tables], promote_options="permissive")
    columns = [
        pa.nulls(rows.num_rows, field.type) if pa.types.is_null(column.type) else column
        for field, column in zip(schema, rows.columns, strict=True)
    ]
    return pa.table(columns, schema=schema).combine_chunks()


def shard_of(ids: pa.ChunkedArray, shards: int) -> Ints:
    """Return the shard of each id; the same in every process."""
    return (hash_strings(ids) % np.uint64(shards)).astype(np.int64)


def split_by(rows: pa.Table, keys: Ints) -> Iterator[tuple[int, pa.Table]]:
    """Yield (key, its rows) for each distinct key, in order; rows keep their order."""
    if not len(keys):
        return
    order = np.argsort(keys, kind="stable")
    ordered = rows.take(pa.array(order))
    sorted_keys = keys[order]
    starts = run_starts(sorted_keys)
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        yield int(sorted_keys[start]), ordered.slice(start, stop - start)


def milliseconds(times: pa.ChunkedArray | pa.Array) -> Ints:
    """Return timestamps[ms] as int64 milliseconds since 1970."""
    return np.asarray(times.cast(pa.int64()), dtype=np.int64)
