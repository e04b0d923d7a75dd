"""`amazon-reviews`: Amazon reviews and product metadata as JSON lines (McAuley lab), fields of 2018 and 2023.

A review stands for a purchase, whatever its rating, which is the event's value (the usual reading in the literature).
Products of 2023 are their `parent_asin`, which joins reviews and metadata; of several metadata rows of a product
(2018 has some) the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.schemas import BAD_VALUE, DUPLICATE, MALFORMED, NULL_ID, PURCHASE, TIMESTAMP
from pipelines.batch.checks import dead_letters
from pipelines.batch.parse import parse_values
from pipelines.batch.raw import RawBatch, json_object
from pipelines.importers.base import Chunk, ImportOptions, bare_items, events_table, item_chunks, record_chunk
from pipelines.importers.reading import Source, numbers, plain_name, read_lines
from pipelines.importers.sieve import LINE, Sieve

FILES = ("<Category>.jsonl or <Category>.json or <Category>_5.json (reviews)", "meta_<Category>.jsonl or .json")
_META = "meta_"
_FIELDS: dict[str, tuple[str, ...]] = {
    "user_id": ("user_id", "reviewerID"),
    "item_id": ("parent_asin", "asin"),
    "rating": ("rating", "overall"),
    "timestamp": ("timestamp", "unixReviewTime"),
}
"""Our name -> the field of 2023, the field of 2018 (seconds, where 2023 has milliseconds)."""
_PRICE = re.compile(r"^\s*(?:from\s*)?\$?\s*(\d[\d,]*\.?\d*)", re.IGNORECASE)


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the reviews as events, then the products."""
    path = source.main("*.jsonl", "*.json", besides=_META)
    seen: dict[str, None] = {}
    for raw in _reviews(path, options.chunk_rows):
        chunk = _review_chunk(raw)
        seen.update(dict.fromkeys(chunk.rows["item_id"].unique().to_pylist()))
        yield chunk
    category = plain_name(path).rpartition(".")[0]
    names = [
        f"{_META}{stem}.{suffix}" for stem in (category, category.removesuffix("_5")) for suffix in ("jsonl", "json")
    ]
    if meta := source.optional(*names):
        yield from _products(meta, options.chunk_rows)
    else:
        yield from item_chunks(bare_items(seen), options.chunk_rows)


def _reviews(path: Path, chunk_rows: int) -> Iterator[RawBatch]:
    lines = read_lines(path)
    while block := list(islice(lines, chunk_rows)):
        records = [(line, json_object(line)) for line in block]
        whole = [(line, record) for line, record in records if record is not None]
        columns = {
            name: pa.array([_first(record, fields) for _, record in whole], pa.string())
            for name, fields in _FIELDS.items()
        }
        columns[LINE] = pa.array([line for line, _ in whole], pa.string())
        yield RawBatch(pa.table(columns), [line for line, record in records if record is None], path.name)


def _review_chunk(raw: RawBatch) -> Chunk:
    sieve = Sieve("events", raw, tuple(_FIELDS))
    sieve.reject_empty("user_id", "item_id")
    sieve.replace("rating", numbers(sieve.rows["rating"]))
    sieve.reject(sieve.rows["rating"].is_null(), BAD_VALUE, "rating: expected a number")
    sieve.replace_times("timestamp", parse_values(numbers(sieve.rows["timestamp"]), TIMESTAMP))
    columns = {name: sieve.rows[name] for name in ("user_id", "item_id", "timestamp")}
    kinds = pa.array([PURCHASE] * sieve.rows.num_rows, pa.string())
    return sieve.chunk(events_table({**columns, "event": kinds, "value": sieve.rows["rating"]}))


def _products(path: Path, chunk_rows: int) -> Iterator[Chunk]:
    known: set[str] = set()
    lines = read_lines(path)
    while block := list(islice(lines, chunk_rows)):
        products: list[dict[str, Any]] = []
        faults: list[tuple[str, str]] = []
        for line in block:
            record = json_object(line)
            item_id = _first(record, _FIELDS["item_id"]) if record else None
            if record is None or not item_id or item_id in known:
                reason = MALFORMED if record is None else DUPLICATE if item_id else NULL_ID
                faults.append((reason, line))
                continue
            known.add(item_id)
            products.append(_product(item_id, record))
        rejects = [dead_letters("items", reason, [None], path.name, [line]) for reason, line in faults]
        yield record_chunk("items", products, pa.concat_tables(rejects) if rejects else None)


def _product(item_id: str, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "item_id": item_id,
        "title": " ".join(str(record.get("title") or item_id).split()),
        "description": _text(record.get("description")),
        "category": _path(record.get("category") or record.get("categories")),
        "brand": _first(record, ("store", "brand")),
        "price": _price(record.get("price")),
        "attributes": _details(record.get("details")),
    }


def _first(record: dict[str, Any], fields: tuple[str, ...]) -> str | None:
    """Return the first of some fields that is there, as text."""
    return next((str(record[field]) for field in fields if record.get(field) not in (None, "")), None)


def _text(value: Any) -> str | None:
    parts = value if isinstance(value, list) else [value]
    return " ".join(str(part) for part in parts if part) or None


def _path(value: Any) -> list[str]:
    """Return one category path; some editions list several paths."""
    levels = value if isinstance(value, list) else [value] if value else []
    levels = levels[0] if levels and isinstance(levels[0], list) else levels
    return [str(level) for level in levels]


def _price(value: Any) -> float | None:
    """Return the (lowest) price.

    Example:
        >>> [_price(value) for value in ("$1,012.99", "$3.50 - $9.99", "from 12.99", 7.5, "None", None)]
        [1012.99, 3.5, 12.99, 7.5, None, None]
    """
    found = _PRICE.match(str(value))
    return float(found.group(1).replace(",", "")) if found else None


def _details(value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict):
        return None
    return {str(name): str(entry) for name, entry in value.items() if isinstance(entry, str | int | float)} or None
