"""`s3rec`: sequences without times (github.com/RUCAIBox/CIKM2020-S3Rec), a line is `user item item ...`.

The n-th item of a user gets day n after 1999-12-31 and is a page of its own, event `purchase`. Items come from
`<name>.items.jsonl` (text), else `<name>_item2attributes.json` (ids, named by `<name>_attribute_names.json` if that is
there), else they are bare ids. A record is one interaction.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import PURCHASE, TIMESTAMP
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.raw import UnreadableFileError, json_object
from pipelines.importers.base import Chunk, ImportOptions, bare_items, events_table, item_chunks
from pipelines.importers.reading import Source, plain_name, read_lines, read_whole, reading
from pipelines.importers.sieve import broken_lines

FILES = ("<name>.txt", "<name>.items.jsonl or <name>_item2attributes.json")
_EVE_MS = int(dt.datetime(1999, 12, 31, tzinfo=dt.UTC).timestamp() * 1000)
_NO_BRAND = "Unknown"


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the sequences as events, then the items."""
    path = source.main("*.txt")
    name = plain_name(path).removesuffix(".txt")
    seen: dict[str, None] = {}
    yield from _events(path, options.chunk_rows, seen)
    yield from item_chunks(_items(source, name, seen), options.chunk_rows)


def _events(path: Path, chunk_rows: int, seen: dict[str, None]) -> Iterator[Chunk]:
    users: list[str] = []
    lengths: list[int] = []
    items: list[str] = []
    broken: list[str] = []
    for line in read_lines(path):
        user, *sequence = line.split()
        if not sequence:
            broken.append(line)
            continue
        users.append(user)
        lengths.append(len(sequence))
        items += sequence
        seen.update(dict.fromkeys(sequence))
        if len(items) >= chunk_rows:
            yield _chunk(users, lengths, items, broken, path.name)
            users, lengths, items, broken = [], [], [], []
    yield _chunk(users, lengths, items, broken, path.name)


def _chunk(users: list[str], lengths: list[int], items: list[str], broken: list[str], source: str) -> Chunk:
    sizes = np.array(lengths, dtype=np.int64)
    user_R = pa.array(users, pa.string()).take(pa.array(np.repeat(np.arange(len(users)), sizes)))
    day_R = np.arange(1, len(items) + 1) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = events_table(
        {
            "user_id": user_R,
            "item_id": pa.array(items, pa.string()),
            "event": pa.array([PURCHASE] * len(items), pa.string()),
            "timestamp": pa.array(_EVE_MS + day_R * DAY_MS).cast(TIMESTAMP),
            "request_id": pc.binary_join_element_wise(user_R, pa.array(day_R).cast(pa.string()), "-"),
        }
    )
    rejects = broken_lines("events", broken, source)
    return Chunk(table="events", rows=rows, rejects=rejects, read=len(items) + len(broken))


def _items(source: Source, name: str, seen: dict[str, None]) -> Iterator[dict[str, Any]]:
    if path := source.optional(f"{name}.items.jsonl"):
        return (_described(line, path) for line in read_lines(path))
    if path := source.optional(f"{name}_item2attributes.json"):
        names_path = source.optional(f"{name}_attribute_names.json")
        return _attributed(_read_json(path), _read_json(names_path) if names_path else {})
    return bare_items(seen)


def _described(line: str, path: Path) -> dict[str, Any]:
    record = json_object(line)
    if record is None or "item_id" not in record:
        raise UnreadableFileError(f"{path}: expected JSON objects with an item_id, one per line, got {line[:100]!r}")
    paths = record.get("categories") or []
    categories = {level for path in paths for level in path}
    named = [name for name in record.get("attributes") or [] if name not in categories and name != _NO_BRAND]
    return {
        "item_id": str(record["item_id"]),
        "title": record.get("title") or "",
        "category": paths[0] if paths else [],
        "brand": named[0] if named else None,
        "attributes": {"keywords": record.get("keywords") or ""},
    }


def _attributed(attributes: dict[str, list[int]], names: dict[str, str]) -> Iterator[dict[str, Any]]:
    for item_id, numbers in attributes.items():
        texts = [names.get(str(number), f"attribute{number}") for number in dict.fromkeys(numbers)]
        yield {"item_id": item_id, "title": item_id, "attributes": {"attributes": "; ".join(texts)}}


def _read_json(path: Path) -> Any:
    with reading(path):
        return json.loads(read_whole(path))
