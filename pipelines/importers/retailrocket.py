"""`retailrocket`: views, carts and purchases of an anonymous shop, in the publisher's files or the SSLRec subset.

`view` -> click, `addtocart`/`cart` -> cart, `transaction`/`buy` -> purchase; nothing tells what was shown. Items come
from `item_properties_part*.csv`: the latest category (its path by `category_tree.csv`) and availability; all other
properties are hashed by the publisher. Without that file items are bare ids. For items a record is one property.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import CART, CLICK, ITEMS, PURCHASE, TIMESTAMP
from pipelines.batch.parse import parse_values
from pipelines.batch.raw import RawBatch
from pipelines.importers.base import Chunk, ImportOptions, bare_items, events_table, item_chunks
from pipelines.importers.reading import Source, numbers, read_columns
from pipelines.importers.sieve import Sieve

FILES = (
    "events.csv (or train_events.csv)",
    "item_properties_part1.csv",
    "item_properties_part2.csv",
    "category_tree.csv",
)
COLUMNS = ("timestamp", "visitorid", "event", "itemid")
PROPERTY_COLUMNS = ("timestamp", "itemid", "property", "value")
KINDS = {"view": CLICK, "addtocart": CART, "cart": CART, "transaction": PURCHASE, "buy": PURCHASE}
_SUBSET = {"user": "visitorid", "item": "itemid", "behavior": "event"}
_CATEGORY, _AVAILABLE = "categoryid", "available"

Facts = dict[str, dict[str, tuple[Any, str]]]
"""Item -> property -> (time, value)."""


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the events, then the items."""
    seen: dict[str, None] = {}
    for raw in read_columns(source.main("events.csv", "train_events.csv"), options.chunk_rows):
        rows = raw.rows.rename_columns([_SUBSET.get(name, name) for name in raw.rows.column_names])
        sieve = Sieve("events", RawBatch(rows, raw.broken_lines, raw.source), COLUMNS)
        sieve.reject_empty("visitorid", "itemid")
        sieve.replace_kinds("event", KINDS)
        sieve.replace_times("timestamp", parse_values(numbers(sieve.rows["timestamp"]), TIMESTAMP))
        seen.update(dict.fromkeys(sieve.rows["itemid"].unique().to_pylist()))
        names = {"user_id": "visitorid", "item_id": "itemid", "event": "event", "timestamp": "timestamp"}
        yield sieve.chunk(events_table({ours: sieve.rows[theirs] for ours, theirs in names.items()}))
    properties = source.all("item_properties_part*.csv", "item_properties.csv")
    if properties:
        yield from _items(properties, source.optional("category_tree.csv"), options.chunk_rows)
    else:
        yield from item_chunks(bare_items(seen), options.chunk_rows)


def _items(properties: list[Path], tree: Path | None, chunk_rows: int) -> Iterator[Chunk]:
    facts: Facts = {}
    for raw in itertools.chain.from_iterable(read_columns(path, chunk_rows) for path in properties):
        sieve = Sieve("items", raw, PROPERTY_COLUMNS)
        sieve.reject_empty("itemid", "property")
        sieve.replace_times("timestamp", parse_values(numbers(sieve.rows["timestamp"]), TIMESTAMP))
        _remember(facts, sieve.rows)
        yield sieve.chunk(ITEMS.empty_table(), merged=sieve.rows.num_rows)
    # Until here every accepted property counts as merged; each item takes one of them back as its own.
    parents = _parents(tree, chunk_rows) if tree else {}
    for chunk in item_chunks((_item(item_id, known, parents) for item_id, known in facts.items()), chunk_rows):
        yield Chunk(table="items", rows=chunk.rows, read=0, merged=-chunk.rows.num_rows)


def _remember(facts: Facts, rows: pa.Table) -> None:
    """Keep the latest category and availability of each item."""
    for item_id in rows["itemid"].unique().to_pylist():
        facts.setdefault(item_id, {})
    told = rows.filter(pc.is_in(rows["property"], pa.array([_CATEGORY, _AVAILABLE])))
    latest = (
        told.sort_by("timestamp")
        .group_by(["itemid", "property"], use_threads=False)
        .aggregate([("timestamp", "last"), ("value", "last")])
    )
    for row in latest.to_pylist():
        known = facts[row["itemid"]]
        before = known.get(row["property"])
        if before is None or row["timestamp_last"] >= before[0]:
            known[row["property"]] = (row["timestamp_last"], row["value_last"])


def _parents(tree: Path, chunk_rows: int) -> dict[str, str | None]:
    parents: dict[str, str | None] = {}
    for raw in read_columns(tree, chunk_rows):
        parents.update(zip(raw.rows["categoryid"].to_pylist(), raw.rows["parentid"].to_pylist(), strict=True))
    return parents


def _item(item_id: str, known: dict[str, tuple[Any, str]], parents: dict[str, str | None]) -> dict[str, Any]:
    category = known[_CATEGORY][1] if _CATEGORY in known else None
    available = known[_AVAILABLE][1] == "1" if _AVAILABLE in known else None
    return {"item_id": item_id, "title": item_id, "category": _path(category, parents), "available": available}


def _path(category: str | None, parents: dict[str, str | None]) -> list[str]:
    path: list[str] = []
    while category is not None and category not in path:
        path.insert(0, category)
        category = parents.get(category)
    return path
