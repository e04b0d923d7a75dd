"""`rees46`: browsing of multi-category and cosmetics shops (REES46, Kaggle; one csv file for each month).

A session is a page: `view` -> click, `cart` -> cart, `purchase` -> purchase with the price as value. The data never
tell what was shown and left alone, so there are no impressions. `remove_from_cart` is rejected: it takes back an event
and says nothing of taste. Items come from the events: category path, brand and price as last seen; they have no
titles, so brand and kind stand in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import CART, CLICK, NEGATIVE_PRICE, PURCHASE, TIMESTAMP
from pipelines.batch.parse import parse_values
from pipelines.importers.base import Chunk, ImportOptions, events_table, item_chunks
from pipelines.importers.reading import Source, numbers, read_columns
from pipelines.importers.sieve import Sieve

FILES = ("2019-Oct.csv (any name ending in .csv)",)
COLUMNS = (
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
)
KINDS = {"view": CLICK, "cart": CART, "purchase": PURCHASE}
_FACTS = ("category_code", "category_id", "brand", "price")


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the events, then the products."""
    facts: dict[str, dict[str, Any]] = {}
    for raw in read_columns(source.main("*.csv"), options.chunk_rows):
        sieve = Sieve("events", raw, COLUMNS)
        sieve.reject_empty("user_id", "product_id")
        sieve.replace_kinds("event_type", KINDS)
        times = pc.replace_substring(sieve.rows["event_time"], " UTC", "Z").combine_chunks()
        sieve.replace_times("event_time", parse_values(times, TIMESTAMP))
        sieve.replace("price", numbers(sieve.rows["price"]))
        below_zero = pc.fill_null(pc.less(sieve.rows["price"], 0), False)
        sieve.reject(below_zero, NEGATIVE_PRICE, "price: expected a price >= 0")
        _remember(facts, sieve.rows)
        yield sieve.chunk(_events(sieve.rows))
    yield from item_chunks((_item(item_id, known) for item_id, known in facts.items()), options.chunk_rows)


def _events(rows: pa.Table) -> pa.Table:
    paid = pc.if_else(pc.equal(rows["event_type"], PURCHASE), rows["price"], pa.scalar(None, pa.float64()))
    return events_table(
        {
            "user_id": rows["user_id"],
            "item_id": rows["product_id"],
            "event": rows["event_type"],
            "timestamp": rows["event_time"],
            "request_id": rows["user_session"],
            "session_id": rows["user_session"],
            "value": paid,
        }
    )


def _remember(facts: dict[str, dict[str, Any]], rows: pa.Table) -> None:
    """Keep what was last said of each product."""
    last = rows.group_by("product_id", use_threads=False).aggregate([(column, "last") for column in _FACTS])
    for row in last.to_pylist():
        known = facts.setdefault(row["product_id"], {})
        known.update({column: row[f"{column}_last"] for column in _FACTS if row[f"{column}_last"] is not None})


def _item(item_id: str, known: dict[str, Any]) -> dict[str, Any]:
    path = known["category_code"].split(".") if "category_code" in known else [known.get("category_id", "unknown")]
    kind = path[-1].replace("_", " ") if "category_code" in known else ""
    return {
        "item_id": item_id,
        "title": " ".join(word for word in (known.get("brand"), kind) if word) or item_id,
        "category": path,
        "brand": known.get("brand"),
        "price": known.get("price"),
    }
