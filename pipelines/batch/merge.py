"""Rows into a table by days that stands: only the files of the days they belong to are read and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from features.definitions import Feature
from features.workspace import Table
from pipelines.batch.arrow import decode, split_by
from pipelines.batch.increment import date_of
from pipelines.batch.runner import Touched, Written
from pipelines.batch.transforms import SORT_KEYS, days_of, open_workspace, read_files, sorted_rows, split_by_day

ADDED, REMOVED = "added", "removed"
_Pieces = tuple[int, Mapping[str, Iterable[bytes]]]


class MergeByDay(beam.PTransform):
    """Rows to add, and keys (the table's `SORT_KEYS`) of rows to remove -> files of the days they are of, as `Written`.

    Args:
        uri: The workspace.
        table: Handle of the table as it stands.
        shards: Parts into which days are put.
        features: See `Workspace.table`.
    """

    def __init__(self, uri: str, table: Table, shards: int, features: Sequence[Feature] | None = None) -> None:
        super().__init__()
        self.uri, self.name, self.shards, self.features = uri, table.name, shards, features
        self.files: dict[str, list[str]] = {}
        for entry in table.manifest().files:
            self.files.setdefault(date_of(entry), []).append(f"{table.root}/{entry.path}")

    def expand(self, changes: dict[str, beam.PCollection]) -> beam.PCollection:
        """Bring the changes of a day together."""
        pieces = {
            kind: changes[kind] | f"{kind} by day" >> beam.FlatMap(split_by_day, self.name, self.shards)
            for kind in (ADDED, REMOVED)
        }
        merge = beam.FlatMap(_merge, self.uri, self.name, self.files, self.features)
        return pieces | "days" >> beam.CoGroupByKey() | "merge" >> merge


def without_keys(rows: pa.Table, removed: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return the rows whose keys are not among the removed ones.

    Example:
        >>> rows = pa.table({"a": ["x", "x", "y"], "b": [1, 2, 1]})
        >>> without_keys(rows, pa.table({"a": ["x"], "b": [2]}), ["a", "b"]).to_pylist()
        [{'a': 'x', 'b': 1}, {'a': 'y', 'b': 1}]
    """
    marked = removed.select(list(keys)).append_column("removed", pa.repeat(True, removed.num_rows))
    places = pa.table({**{key: rows.column(key) for key in keys}, "place": np.arange(rows.num_rows)})
    joined = places.join(marked, list(keys), join_type="left anti", use_threads=False)
    return rows.take(pa.array(np.sort(np.asarray(joined.column("place")))))


def _merge(
    shard: _Pieces, uri: str, name: str, files: Mapping[str, Sequence[str]], features: Sequence[Feature] | None
) -> Iterator[Written | Touched]:
    changes = {kind: _by_day(list(shard[1][kind]), name) for kind in (ADDED, REMOVED)}
    table = open_workspace(uri).table(name, features)
    for day in sorted({*changes[ADDED], *changes[REMOVED]}):
        date = str(np.datetime64(day, "D"))
        parts = [part.cast(table.schema) for part in read_files(files.get(date, []), uri, None)]
        rows = pa.concat_tables([table.schema.empty_table(), *parts])
        if day in changes[REMOVED]:
            rows = without_keys(rows, changes[REMOVED][day], SORT_KEYS[name])
        if day in changes[ADDED]:
            rows = pa.concat_tables([rows, changes[ADDED][day].cast(table.schema)])
        yield Touched(name, date)
        if rows.num_rows:
            ordered = sorted_rows(rows.combine_chunks(), name)
            yield Written(name, table.write_part(ordered, shard=0, date=date))


def _by_day(blobs: list[bytes], name: str) -> dict[int, pa.Table]:
    if not blobs:
        return {}
    rows = decode(blobs)
    return dict(split_by(rows, days_of(rows, name)))
