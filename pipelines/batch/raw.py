"""Where a raw table's rows are: committed Parquet parts, or a user's own Parquet, JSON-lines and CSV files."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from features.mistakes import ID_COLUMNS
from features.workspace import MANIFEST, Workspace, is_own_name
from pipelines.batch.arrow import Ints, Mask

BATCH_ROWS = 32_768
"""Rows of one Beam element: large enough that Beam costs nothing per row, small enough for caches."""
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
FORMATS = (".parquet", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz")


class UnreadableFileError(ValueError):
    """A file is truncated, corrupt or not of the kind its name says."""


@dataclasses.dataclass(frozen=True)
class RawBatch:
    """Some rows of one file, as they came, and the lines of it that could not be read as rows at all.

    Attributes:
        rows: With the file's own columns.
        broken_lines: The lines.
        source: The file.
        numbers: Which row of the file each is, from 1; a CSV file's header is its row 1, JSON lines count as lines.
        broken_details: Of each broken line, what is wrong with it, and where it is.
        no_texts: Of columns of ids in JSON, where the value is neither a text nor a number.
    """

    rows: pa.Table
    broken_lines: list[str]
    source: str
    numbers: Ints | None = None
    broken_details: Sequence[str] = ()
    no_texts: Mapping[str, Mask] = dataclasses.field(default_factory=dict)


def raw_files(workspace: Workspace, name: str) -> list[str]:
    """Return the files of a raw table, committed or not, in order; empty when there are none.

    Raises:
        ValueError: A user's own files lie beside a committed table, or what wrote the table was stopped before its end.
    """
    table, given = workspace.table(name), given_files(workspace, name)
    if table.exists():
        if given:
            raise ValueError(
                f"table {name!r} is there twice: {table.root}/{MANIFEST} lists what `pagewise simulate` or `pagewise "
                f"import` wrote, but yours lie there, too: {_some(given)}; move one of them away (without the manifest "
                "yours count)"
            )
        return table.files()
    unfinished = [info.path for info in table.found_files() if is_own_name(info.base_name)]
    if unfinished and not given:
        raise ValueError(
            f"table {name!r} is unfinished: expected a {MANIFEST} for {_some(unfinished)}, got none; "
            "`pagewise simulate` or `pagewise import` was stopped before its end: run it again"
        )
    return given


def given_files(workspace: Workspace, name: str) -> list[str]:
    """Return the files that a user put into a raw table's folder, in order; what starts with `.` or `_` is none."""
    table = workspace.table(name)
    named = [info for info in table.found_files() if info.path.endswith(FORMATS) and not is_own_name(info.base_name)]
    return [info.path for info in named if not re.search("/[._]", info.path.removeprefix(table.root))]


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def fingerprint(workspace: Workspace, name: str) -> str:
    """Return a digest of a raw table's content, whether it is committed or not."""
    table = workspace.table(name)
    if table.exists():
        return table.manifest().fingerprint
    lines = [f"{path} {digest}" for path, digest in file_digests(workspace, name).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def file_digests(workspace: Workspace, name: str) -> dict[str, str]:
    """Return a digest of each file of a raw table, by its path below the table's folder, in order."""
    table = workspace.table(name)
    if table.exists():
        return {entry.path: entry.digest for entry in table.manifest().files}
    return {path.removeprefix(f"{table.root}/"): _digest(workspace, path) for path in raw_files(workspace, name)}


def _digest(workspace: Workspace, path: str) -> str:
    digest = hashlib.sha256()
    with workspace.filesystem.open_input_stream(path, compression=None) as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]


def read_batches(filesystem: pafs.FileSystem, path: str) -> Iterator[RawBatch]:
    """Read one file in batches of about `BATCH_ROWS` rows.

    Parquet keeps its types; the cells of CSV and JSON lines come as text (nested JSON values as JSON), absent ones
    as null.

    Raises:
        UnreadableFileError: The file is empty (0 bytes), truncated or corrupt.
    """
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".csv": _read_csv}
    suffix = next(suffix for suffix in readers if path.removesuffix(".gz").endswith(suffix))
    try:
        if filesystem.get_file_info(path).size == 0:
            raise _empty(path)
        yield from readers[suffix](filesystem, path)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise UnreadableFileError(
            f"{path}: expected a complete {suffix.removeprefix('.')} file, but reading it failed: {error}; "
            "the file is truncated or corrupt: write it again, or move it away"
        ) from error


def _empty(path: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"{path}: the file is empty (0 bytes): expected rows, or in CSV a header at least; "
        "write it again, or move it away"
    )


def at_row(detail: str, number: int) -> str:
    """Add to what is wrong with a row which row of its file it is."""
    return f"{detail} (row {number})"


def _read_parquet(filesystem: pafs.FileSystem, path: str) -> Iterator[RawBatch]:
    read = 0
    with filesystem.open_input_file(path) as handle:
        for batch in pq.ParquetFile(handle).iter_batches(BATCH_ROWS):
            numbers = np.arange(read + 1, read + 1 + batch.num_rows)
            read += batch.num_rows
            yield RawBatch(pa.Table.from_batches([batch]), [], path, numbers)


def refuse_repeated(names: list[str], path: object) -> None:
    """Raise where a header names a column twice: Arrow would keep the last one and say nothing."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: expected distinct column names, got {', '.join(map(repr, repeated))} more than once")


def _open_stream(filesystem: pafs.FileSystem, path: str) -> pa.NativeFile:
    return filesystem.open_input_stream(path, compression="gzip" if path.endswith(".gz") else None)


def _read_csv(filesystem: pafs.FileSystem, path: str) -> Iterator[RawBatch]:
    with _open_stream(filesystem, path) as stream:
        names = next(csv.reader([io.TextIOWrapper(stream, encoding="utf-8-sig").readline()]), [])
    if not names:
        raise _empty(path)
    refuse_repeated(names, path)
    broken: list[Any] = []
    skipped: list[int] = []
    last = 1

    def keep(row: Any) -> str:
        broken.append(row)
        skipped.append(row.number)
        return "skip"

    with _open_stream(filesystem, path) as stream:
        reader = pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=1 << 22, use_threads=False),
            parse_options=pacsv.ParseOptions(invalid_row_handler=keep, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        for batch in reader:
            found, broken[:] = list(broken), []
            numbers = _numbers_between(last, batch.num_rows, skipped)
            last = int(numbers[-1]) if len(numbers) else last
            # the reader is ahead: some are still to be left out when the next batch is counted
            skipped[:] = [number for number in skipped if number > last]
            yield _csv_batch(pa.Table.from_batches([batch]), found, path, numbers)
    if broken or last == 1:
        nothing = pa.table({name: pa.array([], pa.string()) for name in names})
        yield _csv_batch(nothing, broken, path, np.zeros(0, np.int64))


def _csv_batch(rows: pa.Table, broken: list[Any], path: str, numbers: Ints) -> RawBatch:
    details = [
        at_row(f"expected {row.expected_columns} cells as in the header, got {row.actual_columns}", row.number)
        for row in broken
    ]
    return RawBatch(rows, [row.text for row in broken], path, numbers, details)


def _numbers_between(last: int, size: int, left_out: list[int]) -> Ints:
    """Return the next numbers after `last` but those left out.

    Example:
        >>> _numbers_between(1, 3, [3, 9]).tolist()
        [2, 4, 5]
    """
    numbers = np.arange(last + 1, last + 1 + size + len(left_out))
    return numbers[~np.isin(numbers, left_out)][:size]


def _read_jsonl(filesystem: pafs.FileSystem, path: str) -> Iterator[RawBatch]:
    with _open_stream(filesystem, path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig")
        lines = ((number, line) for number, line in enumerate(text, 1) if line.strip())
        names: dict[str, None] = {}
        while block := list(itertools.islice(lines, BATCH_ROWS)):
            records, numbers, broken, details = [], [], [], []
            for number, line in block:
                try:
                    records.append(read_object(line))
                    numbers.append(number)
                except ValueError as error:
                    broken.append(line.rstrip("\n"))
                    details.append(at_row(str(error), number))
            # A name that any earlier line had is a column; a later block in which it is absent has nulls there.
            names.update(dict.fromkeys(name for record in records for name in record))
            columns = {name: pa.array([_cell(record.get(name)) for record in records], pa.string()) for name in names}
            places = np.array(numbers, np.int64)
            yield RawBatch(pa.table(columns), broken, path, places, details, _no_texts(records, names))


def _no_texts(records: list[dict[str, Any]], names: Collection[str]) -> dict[str, Mask]:
    found = {}
    for name in set(ID_COLUMNS).intersection(names):
        odd = np.array([isinstance(record.get(name), dict | list | bool) for record in records], bool)
        if odd.any():
            found[name] = odd
    return found


def json_object(line: str) -> dict[str, Any] | None:
    """Return the JSON object of one line as `read_object` does, None where the line is none.

    Example:
        >>> json_object("[1]") is None
        True
    """
    try:
        return read_object(line)
    except ValueError:
        return None


def read_object(line: str) -> dict[str, Any]:
    r"""Return the JSON object of one line.

    Half of a surrogate pair (a text cut in the middle of an emoji) is no text that Arrow can hold: it becomes `?`.

    Raises:
        ValueError: The line is none.

    Example:
        >>> read_object('{"title": "cut \\ud83d"}')
        {'title': 'cut ?'}
    """
    try:
        record = json.loads(line)
        if _HALF_PAIR.search(line):
            record = json.loads(json.dumps(record, ensure_ascii=False).encode(errors="replace"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object, got no JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise ValueError("expected a JSON object, got one that is nested too deeply to be read") from error
    except ValueError as error:  # of whole numbers only
        digits = sys.get_int_max_str_digits()
        raise ValueError(f"expected a JSON object with numbers of at most {digits} digits, got a longer one") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got a JSON {type(record).__name__}")
    return record


def _cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
