"""`movielens`: ratings of films (GroupLens), in the four layouts in which they are passed around.

A rating from `positive_rating` on becomes a click, a lower one a dislike; the rating itself is the event's value.
Nothing tells what was shown, so pages are bursts of ratings. A film's category is its first genre; all genres are in
its attributes.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from features.schemas import BAD_VALUE, CLICK, DISLIKE, TIMESTAMP
from pipelines.batch.parse import parse_values
from pipelines.batch.raw import RawBatch
from pipelines.importers.base import Chunk, ImportOptions, bare_items, events_table, item_chunks
from pipelines.importers.reading import Source, numbers, plain_name, read_columns
from pipelines.importers.sieve import Sieve

FILES = (
    "u.data (with u.item, u.user)",
    "ratings.dat (with movies.dat, users.dat)",
    "ratings.csv (with movies.csv)",
    "<name>.inter (with <name>.item, <name>.user)",
)
RATING = ("user_id", "item_id", "rating", "timestamp")
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The genre columns of `u.item`, in order."""
_NO_GENRE = ("unknown", "(no genres listed)")
_OUR_NAMES = {"userId": "user_id", "movieId": "item_id", "movie_title": "title", "class": "genres"}


@dataclasses.dataclass(frozen=True)
class _File:
    pattern: str
    """File name; in companions `*` is what it was in the name of the ratings."""
    delimiter: str
    names: Sequence[str] | None = None
    """Columns; None: the file has a header line."""
    quoted: bool = False

    def read(self, path: Path, chunk_rows: int) -> Iterator[RawBatch]:
        """Yield batches with our column names."""
        batches = read_columns(path, chunk_rows, names=self.names, delimiter=self.delimiter, quoted=self.quoted)
        for raw in batches:
            names = [name.partition(":")[0] for name in raw.rows.column_names]
            rows = raw.rows.rename_columns([_OUR_NAMES.get(name, name) for name in names])
            yield RawBatch(rows, raw.broken_lines, raw.source)


@dataclasses.dataclass(frozen=True)
class _Layout:
    ratings: _File
    items: _File
    users: _File | None
    genre_separator: str


LAYOUTS = (
    _Layout(_File("*.inter", "\t"), _File("*.item", "\t"), _File("*.user", "\t"), " "),
    _Layout(
        _File("u.data", "\t", RATING),
        _File("u.item", "|", ("item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES)),
        _File("u.user", "|", ("user_id", "age", "gender", "occupation", "zip_code")),
        "|",
    ),
    _Layout(
        _File("ratings.dat", "::", RATING),
        _File("movies.dat", "::", ("item_id", "title", "genres")),
        _File("users.dat", "::", ("user_id", "gender", "age", "occupation", "zip_code")),
        "|",
    ),
    _Layout(_File("ratings.csv", ",", quoted=True), _File("movies.csv", ",", quoted=True), None, "|"),
)


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the ratings as events, then films and users."""
    path = source.main(*(layout.ratings.pattern for layout in LAYOUTS))
    layout = _layout(path)
    seen: dict[str, None] = {}
    for raw in layout.ratings.read(path, options.chunk_rows):
        chunk = _rating_chunk(raw, options.positive_rating)
        seen.update(dict.fromkeys(chunk.rows["item_id"].unique().to_pylist()))
        yield chunk
    if items := _companion(source, path, layout.items):
        for raw in layout.items.read(items, options.chunk_rows):
            sieve = Sieve("items", raw, ("item_id", "title"))
            sieve.reject_empty("item_id")
            yield sieve.records(_film(row, layout.genre_separator) for row in sieve.rows.to_pylist())
    else:
        yield from item_chunks(bare_items(seen), options.chunk_rows)
    if layout.users and (users := _companion(source, path, layout.users)):
        for raw in layout.users.read(users, options.chunk_rows):
            sieve = Sieve("users", raw, ("user_id",))
            sieve.reject_empty("user_id")
            yield sieve.records(_user(row) for row in sieve.rows.to_pylist())


def _layout(path: Path) -> _Layout:
    for layout in LAYOUTS:
        if fnmatch.fnmatchcase(plain_name(path), layout.ratings.pattern):
            return layout
    raise ValueError(f"{path}: the name does not tell the layout; expected {', '.join(FILES)}")


def _companion(source: Source, ratings: Path, file: _File) -> Path | None:
    return source.optional(file.pattern.replace("*", plain_name(ratings).rpartition(".")[0]))


def _rating_chunk(raw: RawBatch, positive_rating: float) -> Chunk:
    sieve = Sieve("events", raw, RATING)
    sieve.reject_empty("user_id", "item_id")
    sieve.replace("rating", numbers(sieve.rows["rating"]))
    sieve.reject(sieve.rows["rating"].is_null(), BAD_VALUE, "rating: expected a number")
    sieve.replace_times("timestamp", parse_values(numbers(sieve.rows["timestamp"]), TIMESTAMP))
    rows = sieve.rows
    columns: dict[str, Any] = {name: rows[name] for name in ("user_id", "item_id", "timestamp")}
    columns["event"] = pc.if_else(pc.greater_equal(rows["rating"], positive_rating), CLICK, DISLIKE)
    return sieve.chunk(events_table({**columns, "value": rows["rating"]}))


def _film(row: dict[str, Any], separator: str) -> dict[str, Any]:
    flagged = [genre for genre in GENRES if row.get(genre) == "1"]
    genres = [name for name in flagged or (row.get("genres") or "").split(separator) if name and name not in _NO_GENRE]
    told = {
        "genres": ", ".join(genres),
        "release_date": row.get("release_date"),
        "release_year": row.get("release_year"),
    }
    return {
        "item_id": row["item_id"],
        "title": row["title"] or row["item_id"],
        "category": genres[:1],
        "attributes": {name: value for name, value in told.items() if value},
    }


def _user(row: dict[str, Any]) -> dict[str, Any]:
    attributes = {name: value for name, value in row.items() if name != "user_id" and value is not None}
    return {"user_id": row["user_id"], "attributes": attributes}
