"""The log of what was read, clean events and tables of features -> `Findings`: the Beam side.

Elements are Arrow tables; what belongs to a user or an item meets in its shard, and of events and tables only the rows
of users and items of the day travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.pvalue import AsList

from features.definitions import ITEM_FEATURES, USER, feature_schemas, features_of
from features.events import ItemKeys
from features.schemas import EVENT_LOG, EVENTS, LOG_TABLES
from features.values import from_table
from features.workspace import Workspace
from kernels.hashing import HashArray, hash_strings
from pipelines.batch.arrow import decode
from pipelines.batch.folding import EVENT_COLUMNS
from pipelines.batch.folding_transforms import only
from pipelines.batch.transforms import read_files, split_by_shard
from pipelines.feature_check import items, users
from pipelines.feature_check.drift import histogram
from pipelines.feature_check.findings import Findings, Tally

PAGES, HAPPENED, ARRIVALS, SHOWN, FEATURES = "pages", "events", "arrivals", "shown", "features"
_SCHEMAS = {
    HAPPENED: pa.schema([EVENTS.field(name) for name in EVENT_COLUMNS]),
    ARRIVALS: pa.schema([LOG_TABLES[EVENT_LOG].field(name) for name in users.ARRIVAL_COLUMNS]),
}
_Pieces = tuple[int, Mapping[str, Iterable[bytes]]]


class ReadLog(beam.PTransform):
    """Rows of files of the stream's log.

    Args:
        uri: The workspace.
        files: Paths on its filesystem.
        columns: What to read.
    """

    def __init__(self, uri: str, files: Sequence[str], columns: Sequence[str]) -> None:
        super().__init__()
        self.uri, self.files, self.columns = uri, files, columns

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Read each file."""
        paths = start | "files" >> beam.Create([[path] for path in self.files])
        return paths | "read" >> beam.FlatMap(read_files, self.uri, list(self.columns))


class CheckUsers(beam.PTransform):
    """Pages, events and arrivals -> `Findings` of each shard of users.

    Args:
        shards: Number of shards.
        of_day: Sorted hashes of the users of all pages.
        covered: See `users.check_users`.
        lag_ms: The same.
    """

    def __init__(self, shards: int, of_day: HashArray, *, covered: int, lag_ms: int) -> None:
        super().__init__()
        self.shards, self.of_day, self.covered, self.lag_ms = shards, of_day, covered, lag_ms

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        """Bring users together; inputs are `pages`, `events`, `arrivals` and `keys_of_items` (`CatalogueKeys`)."""
        pieces = {
            name: inputs[name]
            | f"{name} of users" >> beam.Map(rows_among, "user_id", self.of_day)
            | f"{name} by user" >> beam.FlatMap(split_by_shard, "user_id", self.shards)
            for name in (PAGES, HAPPENED, ARRIVALS)
        }
        keys = AsList(inputs["keys_of_items"])
        return (
            pieces
            | "users" >> beam.CoGroupByKey()
            | "check" >> beam.FlatMap(_check_users, keys, covered=self.covered, lag_ms=self.lag_ms)
        )


class CheckItems(beam.PTransform):
    """Pages and rows of `item_features` -> `Findings` of each shard of items.

    Args:
        shards: Number of shards.
        of_day: Sorted hashes of the items of all pages.
        days: See `items.check_items`.
    """

    def __init__(self, shards: int, of_day: HashArray, days: int) -> None:
        super().__init__()
        self.shards, self.of_day, self.days = shards, of_day, days

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        """Bring items together; inputs are `pages` and `features`."""
        shown = inputs[PAGES] | "shown" >> beam.Map(items.shown_items)
        rows = inputs[FEATURES] | "of items" >> beam.Map(rows_among, "item_id", self.of_day)
        pieces = {
            SHOWN: shown | "shown by item" >> beam.FlatMap(split_by_shard, "item_id", self.shards),
            FEATURES: rows | "rows by item" >> beam.FlatMap(split_by_shard, "item_id", self.shards),
        }
        return pieces | "items" >> beam.CoGroupByKey() | "check" >> beam.FlatMap(_check_items, self.days)


class Together(beam.PTransform):
    """`Findings` -> one file with what they come to.

    Args:
        uri: The workspace.
        path: Of the file, below its root.
    """

    def __init__(self, uri: str, *path: str) -> None:
        super().__init__()
        self.uri, self.path = uri, path

    def expand(self, found: beam.PCollection) -> beam.PCollection:
        """Bring the parts together, and write."""
        first = found.pipeline | "at least one" >> beam.Create([Findings()])
        return (
            (first, found)
            | "parts" >> beam.Flatten()
            | "one key" >> beam.Map(lambda part: (0, part))
            | "all parts" >> beam.GroupByKey()
            | "write" >> beam.Map(_write, self.uri, self.path)
        )


def trained_values(rows: pa.Table) -> Findings:
    """Return histograms of the values in rows of `page_features`."""
    chosen = features_of(USER)
    values = from_table(rows, chosen)
    return Findings(features={one.name: Tally(trained=histogram(one, values)) for one in chosen})


def rows_among(rows: pa.Table, column: str, hashes: HashArray) -> pa.Table:
    """Return the rows with an id in a column whose hash is one of these, which are sorted."""
    found: npt.NDArray[np.bool_] = np.isin(hash_strings(rows.column(column)), hashes)
    return rows if found.all() else rows.filter(pa.array(found))


def _check_users(shard: _Pieces, keys: list[ItemKeys], *, covered: int, lag_ms: int) -> Iterator[Findings]:
    pieces = {name: list(blobs) for name, blobs in shard[1].items()}
    if pieces[PAGES]:
        happened, arrivals = (
            decode(pieces[name]) if pieces[name] else _SCHEMAS[name].empty_table() for name in (HAPPENED, ARRIVALS)
        )
        pages = decode(pieces[PAGES])
        yield users.check_users(pages, happened, arrivals, only(keys), covered=covered, lag_ms=lag_ms)


def _check_items(shard: _Pieces, days: int) -> Iterator[Findings]:
    pieces = {name: list(blobs) for name, blobs in shard[1].items()}
    if pieces[SHOWN]:
        empty = feature_schemas()[ITEM_FEATURES].empty_table()
        yield items.check_items(decode(pieces[SHOWN]), decode(pieces[FEATURES]) if pieces[FEATURES] else empty, days)


def _write(keyed: tuple[int, Iterable[Findings]], uri: str, path: Sequence[str]) -> None:
    Workspace(uri).write_bytes(Findings.together(keyed[1]).to_json(), *path)
