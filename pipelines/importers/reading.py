"""The publisher's files -> lines or Arrow batches of text columns, a bounded number at a time, compressed or not."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from pipelines.batch.raw import RawBatch, UnreadableFileError, refuse_repeated

_CODECS: dict[str, str] = {".gz": "gzip", ".zst": "zstd"}
_BLOCK_BYTES = 1 << 20
"""Bytes of one read; Arrow reads some two dozen of them ahead."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a user said the files are: a folder, or the main file itself with its companions beside it."""

    path: Path
    files: tuple[str, ...]
    """The publisher's file names, for error messages."""

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist: {self._expected}")

    def main(self, *patterns: str, besides: str | None = None) -> Path:
        """Return the one file that matches the first pattern that any file matches, plain, `.gz` or `.zst`.

        Args:
            patterns: File names without `.gz` and `.zst`; `*` stands for any characters.
            besides: Start of the names of companions, which are never the main file.

        Raises:
            FileNotFoundError: No file matches.
            ValueError: Several files match.
        """
        if self.path.is_file():
            return self.path
        found = [path for path in self.all(*patterns) if not (besides and path.name.startswith(besides))]
        if not found:
            raise FileNotFoundError(f"nothing to import in {self.path}: {self._expected}")
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{self.path} holds several data sets: {names}; name one, as in --source {found[0]}")
        return found[0]

    def all(self, *patterns: str) -> list[Path]:
        """Return the files that match the first pattern that any file matches, sorted; perhaps none."""
        folder = self.path.parent if self.path.is_file() else self.path
        for pattern in patterns:
            found = [path for suffix in ("", *_CODECS) for path in folder.glob(pattern + suffix) if path.is_file()]
            if found:
                return sorted(found)
        return []

    def optional(self, *patterns: str) -> Path | None:
        """Return a companion of the main file, None where there is none."""
        return next(iter(self.all(*patterns)), None)

    @property
    def _expected(self) -> str:
        return f"expected {', '.join(self.files)} (plain, .gz or .zst) in the folder given by --source"


def plain_name(path: Path) -> str:
    """Return a file's name without `.gz` or `.zst`.

    Example:
        >>> plain_name(Path("data/u.data.gz"))
        'u.data'
    """
    return path.stem if path.suffix in _CODECS else path.name


def open_stream(path: Path) -> pa.NativeFile:
    """Open a file for reading, decompressed by its suffix."""
    if path.stat().st_size == 0:
        raise UnreadableFileError(f"{path}: the file is empty (0 bytes); download it again")
    stream = pa.OSFile(str(path))
    return pa.CompressedInputStream(stream, _CODECS[path.suffix]) if path.suffix in _CODECS else stream


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into one `ValueError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnreadableFileError(
            f"{path}: reading failed: {error}; the file is truncated or corrupt: download it again"
        ) from error


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file that are not blank, without their ends; UTF-8.

    Raises:
        UnreadableFileError: The file is empty, truncated or corrupt.
    """
    some = False
    with reading(path), open_stream(path) as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="\n"):
            if text := line.rstrip("\r\n"):
                some = True
                yield text
    if not some:
        raise UnreadableFileError(f"{path}: the file has no lines; download it again")


def read_whole(path: Path) -> str:
    """Read a small file: UTF-8, or latin-1 where it is not UTF-8 (older MovieLens files)."""
    with reading(path), open_stream(path) as stream:
        content = bytes(stream.read())
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_columns(
    path: Path,
    chunk_rows: int,
    *,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    quoted: bool = True,
) -> Iterator[RawBatch]:
    """Yield a delimited text file as batches of at most `chunk_rows` rows, every column as text, empty cells null.

    Args:
        path: The file.
        chunk_rows: Largest number of rows of a batch.
        names: Column names; None: the first line has them.
        delimiter: One character, or `::`.
        quoted: Whether double quotes enclose cells.

    Raises:
        UnreadableFileError: The file is empty, has no rows, is truncated or corrupt.
    """
    header = list(names) if names else _header(path, delimiter)
    rows = pa.table({name: pa.array([], pa.string()) for name in header})
    broken: list[str] = []
    some = False
    with reading(path), open_stream(path) as stream:
        if delimiter == "::":
            stream, delimiter = pa.lib.TransformInputStream(stream, _SingleColons()), "\t"
        for block, found in _blocks(stream, header, 0 if names else 1, delimiter, quoted):
            rows, broken = pa.concat_tables([rows, block]), broken + found
            while rows.num_rows >= chunk_rows:
                yield RawBatch(rows.slice(0, chunk_rows).combine_chunks(), broken, path.name)
                rows, broken, some = rows.slice(chunk_rows), [], True
    if rows.num_rows or broken:
        yield RawBatch(rows.combine_chunks(), broken, path.name)
    elif not some:
        raise UnreadableFileError(f"{path}: the file has no rows below its header; download it again")


def _header(path: Path, delimiter: str) -> list[str]:
    with reading(path), open_stream(path) as stream:
        line = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace").readline()
    names = next(csv.reader([line], delimiter=delimiter), [])
    if not names:
        raise UnreadableFileError(f"{path}: the file is empty: it has no header line; download it again")
    refuse_repeated(names, path)
    return names


def _blocks(
    stream: pa.NativeFile, header: list[str], skip: int, delimiter: str, quoted: bool
) -> Iterator[tuple[pa.Table, list[str]]]:
    broken: list[str] = []

    def keep(row: Any) -> str:
        broken.append(row.text)
        return "skip"

    reader = pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(column_names=header, skip_rows=skip, block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=pacsv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=keep,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.binary()), strings_can_be_null=True, null_values=[""]
        ),
    )
    for batch in reader:
        columns = [_as_text(column) for column in batch.columns]
        found, broken[:] = list(broken), []
        yield pa.table(columns, names=header), found
    if broken:
        yield pa.table({name: pa.array([], pa.string()) for name in header}), broken


def _as_text(column: pa.Array) -> pa.Array:
    """Decode UTF-8; a cell that is not UTF-8 is latin-1 (spreadsheet exports)."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if cell is None else _decode(cell) for cell in column.to_pylist()], pa.string())


def _decode(cell: bytes) -> str:
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell.decode("latin-1")


class _SingleColons:
    """Replaces `::` by a tab in a stream; a colon at the end of a block waits for the next one."""

    def __init__(self) -> None:
        self._waiting = b""

    def __call__(self, block: pa.Buffer) -> bytes:
        content = self._waiting + bytes(block)
        self._waiting = b":" if content.endswith(b":") and not content.endswith(b"::") else b""
        return content[: len(content) - len(self._waiting)].replace(b"::", b"\t")


def numbers(column: pa.ChunkedArray) -> pa.Array:
    """Return text as float64, null where it is no finite number."""
    plain = pc.match_substring_regex(column, r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$")
    readable = pc.if_else(pc.fill_null(plain, False), pc.utf8_trim_whitespace(column), None)
    values = readable.cast(pa.string()).cast(pa.float64()).combine_chunks()
    return pc.if_else(pc.is_finite(values), values, None)
