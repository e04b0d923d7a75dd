"""`mind`: Microsoft News impressions (MIND), `behaviors.tsv` and `news.tsv`.

An impression list is a page whose request id is the impression's: every shown article an impression, clicked ones a
click too. The publisher shuffled the lists: there are no positions. The history of a user's earliest list becomes one
click a second right before it, each a page of its own, with context `history=true`. A record is one shown article,
click or history entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import BAD_TIMESTAMP, CLICK, IMPRESSION, MALFORMED, STRING_MAP, TIMESTAMP
from pipelines.batch.arrow import milliseconds
from pipelines.batch.checks import dead_letters
from pipelines.importers.base import Chunk, ImportOptions, bare_items, events_table, item_chunks
from pipelines.importers.reading import Source, read_columns, read_lines
from pipelines.importers.sieve import Sieve, broken_lines

FILES = ("behaviors.tsv", "news.tsv")
NEWS_COLUMNS = (
    "item_id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "title_entities",
    "abstract_entities",
)
HISTORY = {"history": "true"}
_TIME = "%m/%d/%Y %I:%M:%S %p"
_SECOND_MS = 1000


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the impression lists and histories as events, then the articles."""
    path = source.main("behaviors.tsv")
    firsts = _earliest(path, options.chunk_rows)
    seen: dict[str, None] = {}
    for lists in _impression_lists(path, options.chunk_rows):
        chunk = _chunk(lists, firsts, path.name)
        seen.update(dict.fromkeys(chunk.rows["item_id"].unique().to_pylist()))
        yield chunk
    if news := source.optional("news.tsv"):
        yield from _news(news, options.chunk_rows)
    else:
        yield from item_chunks(bare_items(seen), options.chunk_rows)


@dataclasses.dataclass
class _Lists:
    """Some impression lists, and what else stood between them."""

    lines: list[list[str]]
    times: npt.NDArray[np.int64]
    """Milliseconds since 1970 of each line."""
    broken: pa.Table


def _impression_lists(path: Path, chunk_rows: int) -> Iterator[_Lists]:
    """Yield lines until they show `chunk_rows` articles."""
    lines: list[list[str]] = []
    broken: list[str] = []
    size = 0
    for line in read_lines(path):
        fields = line.split("\t")
        if len(fields) == 5 and all(fields[:3]) and fields[4]:
            lines.append(fields)
            size += fields[3].count(" ") + fields[4].count(" ") + 2
        else:
            broken.append(line)
        if size >= chunk_rows:
            yield _timed(lines, broken, path.name)
            lines, broken, size = [], [], 0
    yield _timed(lines, broken, path.name)


def _timed(lines: list[list[str]], broken: list[str], source: str) -> _Lists:
    texts = pa.array([fields[2] for fields in lines], pa.string())
    times = pc.strptime(texts, format=_TIME, unit="ms", error_is_null=True).cast(TIMESTAMP)
    readable = np.asarray(times.is_valid())
    timeless = ["\t".join(fields) for fields, good in zip(lines, readable, strict=True) if not good]
    detail = f"time: expected {_TIME}"
    dead = dead_letters("events", BAD_TIMESTAMP, [detail] * len(timeless), source, timeless)
    return _Lists(
        [fields for fields, good in zip(lines, readable, strict=True) if good],
        milliseconds(times.drop_null()),
        pa.concat_tables([broken_lines("events", broken, source), dead]),
    )


def _earliest(path: Path, chunk_rows: int) -> dict[str, tuple[int, str]]:
    """Return each user's earliest impression list, of equally early ones the first: user -> (time, impression id)."""
    firsts: dict[str, tuple[int, str]] = {}
    for lists in _impression_lists(path, chunk_rows):
        for fields, time in zip(lists.lines, lists.times.tolist(), strict=True):
            if fields[1] not in firsts or time < firsts[fields[1]][0]:
                firsts[fields[1]] = (time, fields[0])
    return firsts


def _chunk(lists: _Lists, firsts: dict[str, tuple[int, str]], source: str) -> Chunk:
    shown, odd = _shown(lists, source)
    clicked = shown.filter(shown["clicked"])
    history = _histories(lists, firsts)
    rows = pa.concat_tables([_events(shown, IMPRESSION), _events(clicked, CLICK), _events(history, CLICK, HISTORY)])
    rejects = pa.concat_tables([lists.broken, odd])
    return Chunk(table="events", rows=rows, rejects=rejects, read=rows.num_rows + rejects.num_rows)


def _shown(lists: _Lists, source: str) -> tuple[pa.Table, pa.Table]:
    """Return one row per shown article, and as rejects the entries that are not `article-0` or `article-1`."""
    entries = [fields[4].split() for fields in lists.lines]
    table = _repeated(lists.lines, lists.times, [len(articles) for articles in entries])
    entry = pa.array([article for articles in entries for article in articles], pa.string())
    good = pc.match_substring_regex(entry, "^.+-[01]$")
    table = table.append_column("item_id", pc.utf8_slice_codeunits(entry, 0, -2))
    table = table.append_column("clicked", pc.ends_with(entry, "-1"))
    odd = [f"impression {row['request_id']}" for row in table.filter(pc.invert(good)).to_pylist()]
    texts = entry.filter(pc.invert(good)).to_pylist()
    return table.filter(good), dead_letters("events", MALFORMED, odd, source, texts)


def _histories(lists: _Lists, firsts: dict[str, tuple[int, str]]) -> pa.Table:
    """Return one row per history entry of the users' earliest lists, the last a second before the list."""
    chosen = [row for row, fields in enumerate(lists.lines) if firsts[fields[1]][1] == fields[0]]
    lines = [lists.lines[row] for row in chosen]
    articles = [fields[3].split() for fields in lines]
    sizes = np.array([len(ids) for ids in articles], dtype=np.int64)
    table = _repeated(lines, lists.times[chosen], sizes)
    number = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    before = (np.repeat(sizes, sizes) - number) * _SECOND_MS
    names = pc.binary_join_element_wise(table["user_id"], "history", pa.array(number).cast(pa.string()), "-")
    return pa.table(
        {
            "request_id": names,
            "user_id": table["user_id"],
            "time": np.asarray(table["time"]) - before,
            "item_id": pa.array([article for ids in articles for article in ids], pa.string()),
        }
    )


def _repeated(lines: list[list[str]], times: npt.NDArray[np.int64], sizes: Any) -> pa.Table:
    """Return request, user and time of each line, repeated for each of its articles."""
    row = np.repeat(np.arange(len(lines)), np.asarray(sizes, dtype=np.int64))
    request, user = (pa.array([fields[column] for fields in lines], pa.string()) for column in (0, 1))
    return pa.table(
        {"request_id": request.take(pa.array(row)), "user_id": user.take(pa.array(row)), "time": times[row]}
    )


def _events(table: pa.Table, kind: str, context: dict[str, str] | None = None) -> pa.Table:
    size = table.num_rows
    return events_table(
        {
            "user_id": table["user_id"],
            "item_id": table["item_id"],
            "event": pa.array([kind] * size, pa.string()),
            "timestamp": table["time"].cast(TIMESTAMP),
            "request_id": table["request_id"],
            "context": pa.array([list(context.items()) if context else None] * size, STRING_MAP),
        }
    )


def _news(path: Path, chunk_rows: int) -> Iterator[Chunk]:
    for raw in read_columns(path, chunk_rows, names=NEWS_COLUMNS, delimiter="\t", quoted=False):
        sieve = Sieve("items", raw, NEWS_COLUMNS)
        sieve.reject_empty("item_id")
        yield sieve.records(_article(row) for row in sieve.rows.to_pylist())


def _article(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "item_id": row["item_id"],
        "title": row["title"] or row["item_id"],
        "description": row["abstract"],
        "category": [level for level in (row["category"], row["subcategory"]) if level],
    }
