"""The Beam side: a shard of users meets all that is known of them, then its pages are made and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import USER_STATES
from features.store.histories import SEQUENCE_COLUMNS
from features.workspace import Table, Workspace
from pipelines.batch.arrow import decode
from pipelines.batch.runner import Counted, Written
from pipelines.batch.transforms import ReadTable, split_by_shard
from pipelines.recommend.pages import PagesJob, make_pages
from pipelines.recommend.users import known_users

RECOMMENDATIONS = "recommendations"
COLUMNS: dict[str, list[str]] = {
    "sequences": SEQUENCE_COLUMNS,
    USER_STATES: ["user_id", "state"],
    "clean_users": ["user_id", "attributes"],
}
"""What is read of each table that says something of users."""


class RecommendUsers(beam.PTransform):
    """Users of the tables -> one Parquet file of pages per shard of users; emits `Written` and `Counted`.

    Args:
        job: What workers need to know.
        tables: Name -> table, of those of `COLUMNS` that there are.
        shards: Number of shards.
    """

    def __init__(self, job: PagesJob, tables: Mapping[str, Table], shards: int) -> None:
        super().__init__()
        self.job, self.tables, self.shards = job, tables, shards

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Bring the tables' rows of a shard together."""
        pieces = {
            name: start
            | f"read {name}" >> ReadTable(self.job.uri, table, COLUMNS[name])
            | f"split {name}" >> beam.FlatMap(split_by_shard, "user_id", self.shards)
            for name, table in self.tables.items()
        }
        return pieces | "users" >> beam.CoGroupByKey() | "pages" >> beam.FlatMap(_write_pages, self.job)


def _write_pages(keyed: tuple[int, Mapping[str, Iterable[bytes]]], job: PagesJob) -> Iterator[Written | Counted]:
    shard, pieces = keyed
    workspace = Workspace(job.uri)
    rows = {name: _rows(workspace.table(name), pieces.get(name, ())) for name in COLUMNS}
    users = known_users(
        rows["sequences"],
        rows[USER_STATES],
        rows["clean_users"],
        history_length=job.history_length,
        size=job.users_per_batch,
    )
    output = workspace.table(RECOMMENDATIONS)
    pages = pa.concat_tables([output.schema.empty_table(), *(make_pages(job, part) for part in users)])
    if pages.num_rows:
        yield Written(RECOMMENDATIONS, output.write_part(pages, shard=shard))
    yield Counted("users.in", pages.num_rows)
    for entry in pc.value_counts(pages.column("fallback").drop_null()).to_pylist():
        yield Counted(f"fallback.{entry['values']}", entry["counts"])


def _rows(table: Table, pieces: Iterable[bytes]) -> pa.Table:
    found = list(pieces)
    empty = table.schema.empty_table().select(COLUMNS[table.name])
    return decode(found) if found else empty
