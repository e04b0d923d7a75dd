"""`open-bandit`: fashion recommendations of two known policies (Open Bandit Dataset, ZOZOTOWN; small or full).

Folders `<policy>/<campaign>/` of any campaigns, with the policies `random` and `bts` (Bernoulli Thompson sampling). A
row is one item shown at one of three positions. Rows that were on one page cannot be put together again, so every row
is a page of one item, with its own request and, since the data name no users, its own user; position, campaign, policy
and user features are its context. The publisher's code for an item begins at 0 in every campaign: our ids have the
campaign in front. Item features were hashed anew in every folder; those of the first one are kept, `item_feature_1`
as the category. Affinities of users to items are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import (
    BAD_PROPENSITY,
    BAD_VALUE,
    CLICK,
    IMPRESSION,
    SERVED_PAGES,
    STRING_MAP,
    TIMESTAMP,
)
from kernels.jagged import offsets_from_lengths
from pipelines.batch.parse import parse_values
from pipelines.batch.raw import RawBatch
from pipelines.importers.base import Chunk, ImportOptions, bare_items, events_table, item_chunks
from pipelines.importers.reading import Source, numbers, plain_name, read_columns
from pipelines.importers.sieve import Sieve

FILES = ("random/men/men.csv (<policy>/<campaign>/<campaign>.csv with item_context.csv)",)
POLICIES = ("bts", "random")
COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score")
_ITEMS = "item_context.csv"
_ROW = "row"
"""Column of a batch: number of the record in its file."""


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the rows of each file as events and served pages, then the items."""
    contexts: dict[str, Path] = {}
    seen: dict[str, None] = {}
    for path in _logs(source):
        policy, campaign = path.parts[-3:-1]
        for events, pages in _log_chunks(path, policy, campaign, options.chunk_rows):
            seen.update(dict.fromkeys(events.rows["item_id"].unique().to_pylist()))
            yield events
            yield pages
        if items := Source(path, source.files).optional(_ITEMS):
            contexts.setdefault(campaign, items)
    for campaign, path in contexts.items():
        for raw in read_columns(path, options.chunk_rows):
            sieve = Sieve("items", raw, ("item_id",))
            sieve.reject_empty("item_id")
            described = [_item(row, campaign) for row in sieve.rows.to_pylist()]
            for item in described:
                seen.pop(item["item_id"], None)
            yield sieve.records(described)
    yield from item_chunks(bare_items(seen), options.chunk_rows)


def _logs(source: Source) -> list[Path]:
    """Return the files of rows: the named one, or all below the folder."""
    if source.path.is_file():
        found = [source.path.resolve()]
    else:
        found = sorted(path for path in source.path.resolve().rglob("*.csv*") if plain_name(path) == _log_name(path))
    wrong = [path for path in found if path.parts[-3] not in POLICIES]
    if wrong or not found:
        raise FileNotFoundError(
            f"nothing to import in {source.path}: expected {source.files[0]} below a folder {' or '.join(POLICIES)}"
            f"{f', got {wrong[0]}' if wrong else ''} (plain, .gz or .zst) in the folder given by --source"
        )
    return found


def _log_name(path: Path) -> str:
    return f"{path.parent.name}.csv"


def _log_chunks(path: Path, policy: str, campaign: str, chunk_rows: int) -> Iterator[tuple[Chunk, Chunk]]:
    first = 0
    for raw in read_columns(path, chunk_rows):
        numbered = raw.rows.append_column(_ROW, pa.array(np.arange(first, first + raw.rows.num_rows)).cast(pa.string()))
        first += raw.rows.num_rows
        sieve = _checked(RawBatch(numbered, raw.broken_lines, raw.source))
        requests = pc.binary_join_element_wise(policy, campaign, sieve.rows[_ROW], "-").combine_chunks()
        known = _known(sieve.rows, requests, policy, campaign)
        shown = events_table({**known, "event": pa.array([IMPRESSION] * len(requests), pa.string())})
        clicked = shown.filter(pc.equal(sieve.rows["click"], 1.0))
        clicks = clicked.set_column(
            shown.schema.get_field_index("event"),
            shown.schema.field("event"),
            pa.array([CLICK] * clicked.num_rows, pa.string()),
        )
        rows, rejects = pa.concat_tables([shown, clicks]), sieve.rejects
        events = Chunk(table="events", rows=rows, rejects=rejects, read=rows.num_rows + rejects.num_rows)
        yield events, Chunk(table="served_pages", rows=_pages(known, policy), read=len(requests))


def _checked(raw: RawBatch) -> Sieve:
    sieve = Sieve("events", raw, COLUMNS)
    sieve.reject_empty("item_id")
    sieve.replace_times("timestamp", parse_values(sieve.rows["timestamp"].combine_chunks(), TIMESTAMP))
    for name in ("click", "propensity_score"):
        sieve.replace(name, numbers(sieve.rows[name]))
    chance = sieve.rows["propensity_score"]
    possible = pc.and_(pc.greater(chance, 0), pc.less_equal(chance, 1))
    sieve.reject(pc.invert(possible), BAD_PROPENSITY, "propensity_score: expected a probability in (0, 1]")
    known = pc.is_in(sieve.rows["click"], pa.array([0.0, 1.0]))
    sieve.reject(pc.invert(known), BAD_VALUE, "click: expected 0 or 1")
    return sieve


def _known(rows: pa.Table, requests: pa.Array, policy: str, campaign: str) -> dict[str, Any]:
    """Return columns of `events` that a row tells of."""
    return {
        "user_id": requests,
        "item_id": pc.binary_join_element_wise(campaign, rows["item_id"], "-"),
        "timestamp": rows["timestamp"],
        "request_id": requests,
        "propensity": rows["propensity_score"],
        "policy": pa.array([policy] * len(requests), pa.string()),
        "context": _contexts(rows, policy, campaign),
    }


def _contexts(rows: pa.Table, policy: str, campaign: str) -> pa.Array:
    features = [name for name in rows.column_names if name.startswith("user_feature_")]
    told = {
        "campaign": pa.repeat(campaign, rows.num_rows),
        "policy": pa.repeat(policy, rows.num_rows),
        "position": rows["position"],
        **{name: rows[name] for name in features},
    }
    records = zip(*(column.to_pylist() for column in told.values()), strict=True)
    pairs = [[pair for pair in zip(told, record, strict=True) if pair[1] is not None] for record in records]
    return pa.array(pairs, STRING_MAP)


def _pages(known: dict[str, Any], policy: str) -> pa.Table:
    size = len(known["request_id"])
    ends = pa.array(offsets_from_lengths(np.ones(size, dtype=np.int64)), pa.int32())
    columns = {name: known[name] for name in ("request_id", "user_id", "timestamp", "policy", "context")}
    columns["arm"] = pa.repeat(policy, size)
    for name, single in (("items", "item_id"), ("propensities", "propensity")):
        columns[name] = pa.ListArray.from_arrays(ends, known[single].combine_chunks())
    return pa.table(
        [columns.get(field.name, pa.nulls(size, field.type)) for field in SERVED_PAGES], schema=SERVED_PAGES
    )


def _item(row: dict[str, Any], campaign: str) -> dict[str, Any]:
    told = {name: value for name, value in row.items() if name.startswith("item_feature_") and value is not None}
    item_id = f"{campaign}-{row['item_id']}"
    category = [told["item_feature_1"]] if "item_feature_1" in told else None
    return {"item_id": item_id, "title": item_id, "category": category, "attributes": {"campaign": campaign, **told}}
