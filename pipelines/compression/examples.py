"""Public click data as examples: columns of strings, a label, and a split by time.

Legend: `E` examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import CLICK, IMPRESSION
from kernels.hashing import HashArray, combine_hashes, hash_strings
from models.compression.layouts import Field
from pipelines.batch.arrow import milliseconds
from pipelines.importers import mind, movielens
from pipelines.importers.base import Chunk, ImportOptions
from pipelines.importers.reading import Source, numbers, read_columns

CRITEO_COLUMNS = ("label", *(f"I{number}" for number in range(1, 14)), *(f"C{number}" for number in range(1, 27)))
_HOUR_MS = 3_600_000
_SHARES = (0.8, 0.9)
"""Where validation and test begin, as shares of the examples in the order of time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled examples of one data set."""

    columns: Mapping[str, pa.ChunkedArray]
    """Field -> one string per example, null where nothing is known."""
    label_E: npt.NDArray[np.float32]
    """1 for a click (or a liked film), 0 for none."""
    time_E: npt.NDArray[np.int64]
    """Of the order alone; examples of one moment are never split."""
    item_field: str | None
    """The field whose past rate is the popularity prior; None where no field names what was shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Examples of one part of the time, as hashes."""

    columns: Mapping[str, HashArray]
    label_E: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitExamples:
    """The first 80 % of the examples in time, the next 10 %, the last 10 %; vocabularies of the first alone."""

    fields: tuple[Field, ...]
    train: Part
    validation: Part
    test: Part
    item_field: str | None


def load_examples(dataset: str, source: Path) -> Examples:
    """Read a data set.

    Args:
        dataset: A key of `LOADERS`.
        source: Folder with the publisher's files, or the main file itself.

    Raises:
        FileNotFoundError: The files are not there.
        ValueError: They are damaged or without positives or negatives.
    """
    examples = LOADERS[dataset](source)
    positives = int(examples.label_E.sum())
    if not 0 < positives < len(examples.label_E):
        raise ValueError(
            f"{dataset}: expected positive and negative examples, got {positives} positives of {len(examples.label_E)}"
        )
    return examples


def split_by_time(examples: Examples, salt: int = 0) -> SplitExamples:
    """Hash the columns and cut them at two moments.

    Args:
        examples: In any order.
        salt: Of the values' hashes: with another one other values share a row of a hashed table.

    Raises:
        ValueError: A part would have no example, no positive or no negative.
    """
    times = np.sort(examples.time_E)
    moments = [times[int(share * len(times))] for share in _SHARES]
    part_E = np.searchsorted(moments, examples.time_E, side="right")
    hashes = {name: hash_strings(column, salt) for name, column in examples.columns.items()}
    parts = []
    for number, name in enumerate(("train", "validation", "test")):
        rows = np.flatnonzero(part_E == number)
        label_E = examples.label_E[rows]
        if not 0 < label_E.sum() < len(rows):
            raise ValueError(f"{name}: expected positives and negatives, got {label_E.sum():.0f} of {len(rows)}")
        parts.append(Part(columns={field: values[rows] for field, values in hashes.items()}, label_E=label_E))
    fields = tuple(Field(name=name, values_V=np.unique(values)) for name, values in parts[0].columns.items())
    return SplitExamples(
        fields=fields, train=parts[0], validation=parts[1], test=parts[2], item_field=examples.item_field
    )


def _movielens(source: Path) -> Examples:
    tables = _tables(movielens.read(Source(source, movielens.FILES), ImportOptions()))
    ratings = tables["events"]
    # The middle of the scale is left out as in the preprocessing all published figures rest on.
    ratings = ratings.filter((pc.field("value") <= 2) | (pc.field("value") >= 4))
    columns = {"user_id": ratings["user_id"], "item_id": ratings["item_id"]}
    if "users" in tables:
        for name in ("age", "gender", "occupation", "zip_code"):
            columns[name] = _looked_up(ratings["user_id"], _attribute(tables["users"], "user_id", name))
    for name in ("genres", "release_year"):
        columns[name] = _looked_up(ratings["item_id"], _attribute(tables["items"], "item_id", name))
    return Examples(
        columns=columns,
        label_E=np.asarray(pc.greater_equal(ratings["value"], 4)).astype(np.float32),
        time_E=milliseconds(ratings["timestamp"]),
        item_field="item_id",
    )


def _mind(source: Path) -> Examples:
    tables = _tables(mind.read(Source(source, mind.FILES), ImportOptions()))
    events = tables["events"]
    shown = events.filter(pc.field("event") == IMPRESSION)
    clicks = events.filter(pc.field("event") == CLICK)
    time_E = milliseconds(shown["timestamp"])
    paths = [(row["item_id"], row["category"] or []) for row in tables["items"].to_pylist()]
    return Examples(
        columns={
            "user_id": shown["user_id"],
            "item_id": shown["item_id"],
            "category": _looked_up(shown["item_id"], {item: path[0] for item, path in paths if path}),
            "subcategory": _looked_up(shown["item_id"], {item: path[1] for item, path in paths if len(path) > 1}),
            "hour": pa.chunked_array([pa.array(time_E // _HOUR_MS % 24).cast(pa.string())]),
        },
        label_E=np.isin(_pairs(shown), _pairs(clicks)).astype(np.float32),
        time_E=time_E,
        item_field="item_id",
    )


def _criteo(source: Path) -> Examples:
    """Integers become the number of their bucket, `floor(log(1 + x)^2)`; the lines are in the order of time."""
    path = Source(source, ("train.txt",)).main("train.txt", "criteo_train.csv")
    rows = _all_rows(path, names=CRITEO_COLUMNS, delimiter="\t", quoted=False)
    columns = {name: rows[name] for name in CRITEO_COLUMNS[1:]}
    return _labelled(columns | {name: _buckets(rows[name]) for name in CRITEO_COLUMNS[1:14]}, rows["label"])


def _avazu(source: Path) -> Examples:
    """All columns but the row's id and the day; the lines are in the order of time."""
    rows = _all_rows(Source(source, ("train.csv",)).main("train.csv", "avazu_train.csv"))
    columns = {name: rows[name] for name in rows.column_names if name not in ("id", "click")}
    return _labelled(columns | {"hour": pc.utf8_slice_codeunits(rows["hour"], -2)}, rows["click"])


LOADERS: dict[str, Callable[[Path], Examples]] = {
    "movielens-100k": _movielens,
    "mind": _mind,
    "criteo": _criteo,
    "avazu": _avazu,
}


def _tables(chunks: Iterator[Chunk]) -> dict[str, pa.Table]:
    found: dict[str, list[pa.Table]] = {}
    for chunk in chunks:
        found.setdefault(chunk.table, []).append(chunk.rows)
    return {name: pa.concat_tables(parts) for name, parts in found.items()}


def _attribute(rows: pa.Table, id_name: str, name: str) -> dict[str, str]:
    pairs = ((row[id_name], dict(row["attributes"] or ()).get(name)) for row in rows.to_pylist())
    return {key: value for key, value in pairs if value}


def _looked_up(ids: pa.ChunkedArray, values: Mapping[str, str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([values.get(key) for key in ids.to_pylist()], pa.string())])


def _pairs(events: pa.Table) -> HashArray:
    return combine_hashes(hash_strings(events["request_id"]), hash_strings(events["item_id"]))


def _all_rows(path: Path, names: Sequence[str] | None = None, delimiter: str = ",", quoted: bool = True) -> pa.Table:
    batches = read_columns(path, 50_000, names=names, delimiter=delimiter, quoted=quoted)
    return pa.concat_tables([batch.rows for batch in batches])


def _buckets(column: pa.ChunkedArray) -> pa.ChunkedArray:
    value = pc.power(pc.log1p(pc.max_element_wise(numbers(column), 0.0, skip_nulls=False)), 2)
    return pa.chunked_array([pc.floor(value).cast(pa.int64()).cast(pa.string())])


def _labelled(columns: Mapping[str, pa.ChunkedArray], label: pa.ChunkedArray) -> Examples:
    label_E = np.asarray(pc.equal(label, "1")).astype(np.float32)
    return Examples(columns=columns, label_E=label_E, time_E=np.arange(len(label_E)), item_field=None)
