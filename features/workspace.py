"""A workspace: where tables, bundles, checkpoints, releases and runs live, on a local path or any Arrow filesystem.

A table is a folder of Parquet files plus `manifest.json`, written last. Readers of a committed table see exactly the
files its manifest lists, so a half-written or re-written table is never seen: either the old one or the new one is.
File names carry a digest of their content, therefore writing the same rows again is a no-op.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from features.definitions import Feature, feature_schemas
from features.schemas import TABLES, schema_hash

MANIFEST = "manifest.json"
WRITING = ".writing-"
"""What names of files begin with that are not whole yet."""
_OWN_NAME = re.compile(rf"part-\d{{5}}-[0-9a-f]{{8}}\.parquet|{re.escape(WRITING)}.*")


class MissingTableError(FileNotFoundError):
    """A table was asked for that no stage has written yet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One committed file: `path` relative to the table, its number of `rows` and the `digest` of its bytes."""

    path: str
    rows: int
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a committed table consists of and where it came from."""

    name: str
    schema_hash: str
    files: tuple[FileEntry, ...]
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name -> fingerprint of everything the table was computed from."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Rows in, out and dropped by reason (`dropped.<reason>`)."""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows in the table."""
        return sum(entry.rows for entry in self.files)

    @property
    def fingerprint(self) -> str:
        """A digest of schema and content that does not depend on when or where the table was written."""
        lines = [self.schema_hash, *sorted(f"{entry.path} {entry.digest}" for entry in self.files)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Serialise, keys sorted, so that equal manifests are equal byte for byte."""
        document = {**dataclasses.asdict(self), "rows": self.rows, "fingerprint": self.fingerprint}
        return json.dumps(document, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote."""
        document = json.loads(text)
        document["files"] = tuple(FileEntry(**entry) for entry in document["files"])
        return cls(**{field.name: document[field.name] for field in dataclasses.fields(cls)})


class Workspace:
    """Paths and tables below one root.

    Args:
        uri: A local path, or a URI that `pyarrow.fs.FileSystem.from_uri` knows (`s3://bucket/prefix`, `gs://...`).
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)
        if "://" in self.uri:
            self.filesystem, self.root = pafs.FileSystem.from_uri(self.uri)
        else:
            self.filesystem, self.root = pafs.LocalFileSystem(), str(Path(self.uri).absolute())

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """Join `parts` below the root; the result is a path of `self.filesystem`."""
        return "/".join([self.root.rstrip("/"), *parts])

    def local_path(self, *parts: str) -> Path:
        """Like `path`, as a `pathlib.Path`, for files that must be local (checkpoints, databases, sockets).

        Raises:
            ValueError: The workspace is not on this machine.
        """
        if not self.is_local:
            raise ValueError(
                f"{'/'.join(parts)} must be on a local disk, but the workspace is {self.uri}; give a local --workspace"
            )
        return Path(self.path(*parts))

    def table(self, name: str, features: Sequence[Feature] | None = None) -> Table:
        """Return the handle of a table of `features.schemas.TABLES` or of features; nothing is read yet.

        Args:
            name: Its name.
            features: Of which the columns of a table of features are, default `features.definitions.FEATURES`.
        """
        schemas = {**TABLES, **feature_schemas(features)}
        if name not in schemas:
            raise ValueError(f"unknown table {name!r}; known tables: {', '.join(sorted(schemas))}")
        return Table(self, name, schemas[name])

    def read_bytes(self, *parts: str) -> bytes:
        """Read a whole file below the root."""
        with self.filesystem.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read())

    def write_bytes(self, content: bytes, *parts: str) -> None:
        """Write a whole file below the root, atomically on a local disk."""
        write_atomically(self.filesystem, self.path(*parts), content)


class Table:
    """A named table of a workspace: `write_part` any number of times, anywhere, then `commit` once."""

    def __init__(self, workspace: Workspace, name: str, schema: pa.Schema) -> None:
        self.workspace = workspace
        self.name = name
        self.schema = schema

    @property
    def root(self) -> str:
        """The table's folder, a path of the workspace's filesystem."""
        return self.workspace.path("tables", self.name)

    def exists(self) -> bool:
        """Whether the table has been committed."""
        info = self.workspace.filesystem.get_file_info(f"{self.root}/{MANIFEST}")
        return bool(info.type == pafs.FileType.File)

    def manifest(self) -> Manifest:
        """Return the committed manifest.

        Raises:
            MissingTableError: The table has not been committed.
            ValueError: The manifest is damaged.
        """
        if not self.exists():
            raise MissingTableError(
                f"table {self.name!r} does not exist in workspace {self.workspace.uri}: "
                f"expected {self.root}/{MANIFEST}; run the stage that writes it (`pagewise run` runs all of them)"
            )
        try:
            return Manifest.from_json(self.workspace.read_bytes("tables", self.name, MANIFEST).decode())
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.root}/{MANIFEST}: expected what a stage wrote, but it is damaged ({error}); remove the folder "
                "and run the stage that writes it (`pagewise run` runs all of them)"
            ) from error

    def write_part(self, rows: pa.Table, *, shard: int, date: str | None = None) -> FileEntry:
        """Write one Parquet file and return its entry for `commit`; safe to repeat and to call in parallel.

        Args:
            rows: Rows of the table; cast to the table's schema.
            shard: Number of the part; parts of one (date, shard) must come from one writer.
            date: `YYYY-MM-DD` of the partition folder, None for a table without dates.
        """
        rows = conform(rows, self.schema, self.name)
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd", write_statistics=True)
        content = sink.getvalue()
        digest = hashlib.sha256(content).hexdigest()[:16]
        folder = f"date={date}/" if date is not None else ""
        relative = f"{folder}part-{shard:05d}-{digest[:8]}.parquet"
        write_atomically(self.workspace.filesystem, f"{self.root}/{relative}", content)
        return FileEntry(path=relative, rows=rows.num_rows, digest=digest)

    def commit(
        self,
        entries: Iterable[FileEntry],
        *,
        inputs: Mapping[str, str] | None = None,
        counts: Mapping[str, int] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Publish `entries` as the table's new content, then delete parts that no longer belong to it.

        Files that `write_part` did not name (a user's own, which lay there before) stay where they are.
        """
        manifest = Manifest(
            name=self.name,
            schema_hash=schema_hash(self.schema),
            files=tuple(sorted(entries, key=lambda entry: entry.path)),
            inputs=dict(inputs or {}),
            counts=dict(counts or {}),
            notes=dict(notes or {}),
        )
        self.workspace.write_bytes(manifest.to_json().encode(), "tables", self.name, MANIFEST)
        listed = {f"{self.root}/{entry.path}" for entry in manifest.files}
        for info in self.found_files():
            if is_own_name(info.base_name) and info.path not in listed:
                self.workspace.filesystem.delete_file(info.path)
        return manifest

    def files(self) -> list[str]:
        """Return the paths of the committed files, in order."""
        return [f"{self.root}/{entry.path}" for entry in self.manifest().files]

    def dataset(self) -> ds.Dataset:
        """Return the committed files as an Arrow dataset in the table's schema (partition folders add no column)."""
        return ds.dataset(self.files(), schema=self.schema, format="parquet", filesystem=self.workspace.filesystem)

    def read(self, columns: list[str] | None = None, filter: ds.Expression | None = None) -> pa.Table:
        """Read the committed table, optionally some columns and the rows that pass `filter`."""
        return self.dataset().to_table(columns=columns, filter=filter)

    def found_files(self) -> list[pafs.FileInfo]:
        """Return every file that lies in the table's folder, committed or not, by path."""
        selector = pafs.FileSelector(self.root, recursive=True, allow_not_found=True)
        infos = self.workspace.filesystem.get_file_info(selector)
        return sorted((info for info in infos if info.type == pafs.FileType.File), key=lambda info: info.path)


def is_own_name(name: str) -> bool:
    """Whether a file's name is one that `Table.write_part` gives, finished or half written.

    Example:
        >>> is_own_name("part-00003-9f86d081.parquet"), is_own_name("part-3.parquet")
        (True, False)
    """
    return _OWN_NAME.fullmatch(name) is not None


def conform(rows: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """Order and cast the columns of `rows` to `schema`; absent nullable columns become null.

    Raises:
        ValueError: A required column is missing, an unknown one is there, or a value does not fit its type.
    """
    unknown = sorted(set(rows.column_names) - set(schema.names))
    missing = [field.name for field in schema if field.name not in rows.column_names and not field.nullable]
    if unknown or missing:
        raise ValueError(
            f"table {name!r} expects columns {', '.join(schema.names)}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        try:
            columns.append(rows.column(field.name).cast(field.type))
        # the second is pyarrow's class for a cast that it does not have
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"table {name!r}, column {field.name!r}: expected {field.type}; {error}") from error
        if not field.nullable and columns[-1].null_count:
            raise ValueError(f"table {name!r}, column {field.name!r}: {columns[-1].null_count} nulls, expected none")
    return pa.Table.from_arrays(columns, schema=schema)


def sync_folder(folder: str) -> None:
    """Wait until the disk knows which files a local folder holds: a rename alone may be lost in a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(
    filesystem: pafs.FileSystem, path: str, content: bytes | pa.Buffer, *, durable: bool = True
) -> None:
    """Write a whole file so that no reader ever sees a part of it (object stores do so by themselves).

    Args:
        filesystem: Where.
        path: The file; its folder is made.
        content: Of the file.
        durable: Wait until the disk has the content; else a power cut may leave an empty file.
    """
    parent = path.rsplit("/", 1)[0]
    filesystem.create_dir(parent, recursive=True)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        return
    handle, temporary = tempfile.mkstemp(dir=parent, prefix=WRITING)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
