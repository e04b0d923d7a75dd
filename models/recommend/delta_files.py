"""Catalogue deltas on disk: numbered folders beside the releases, each written whole or not at all.

::

    releases/<release id>/                  the release: never changes
    releases/deltas/<release id>/000001/
        items.parquet         rows of the items table: new items, and items whose facts changed or that came back
        codes.parquet         the new ones' ids and semantic IDs
        content.safetensors   the vectors that these were made of
        vectors.safetensors   their two-tower vectors, where the release has a two-tower
        withdrawn.parquet     ids of withdrawn items
        manifest.json         what it does, the delta before, digests of the files

A delta is written under another name and takes its number in one step; what a killed writer leaves under such a name is
removed an hour later, by the next writer. Deltas lie beside their release, not in it:
whoever deletes a damaged release to fetch it again must not bring withdrawn items back.
Legend: `M` new items, `L` levels, `D` width of a two-tower vector, `V` of a content vector.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import load, save

from features.schemas import ITEMS
from features.workspace import MANIFEST
from models.tokenizer.bundle import CODES_SCHEMA, codes_file, vectors_file
from models.tokenizer.quantizer import Codes

FOLDER = "deltas"
ITEMS_FILE, CODES, CONTENT = "items.parquet", "codes.parquet", "content.safetensors"
VECTORS, WITHDRAWN = "vectors.safetensors", "withdrawn.parquet"
WRITING = ".writing-"
ABANDONED_SECONDS = 3600
"""Age from which a folder that is being written counts as left behind; writing takes seconds."""
_WITHDRAWN_SCHEMA = pa.schema([pa.field("item_id", pa.string(), nullable=False)])
Floats = npt.NDArray[np.float32]
Number = TypeVar("Number", np.int32, np.float32)


class DeltaError(ValueError):
    """A catalogue delta is damaged, missing or of another release."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeltaManifest:
    """What a delta does."""

    release_id: str
    number: int
    previous: str
    """Digest of the manifest of the delta before; empty for the first."""
    created: int
    """When it was written, milliseconds since 1970 UTC."""
    carried_from: str | None
    """The release whose deltas it takes over."""
    appended: int
    """Items that the release did not have."""
    changed: int
    """Known items with other facts."""
    returned: int
    """Withdrawn items that are back."""
    withdrawn: int
    collided: int
    """Appended items whose semantic ID is also another item's."""
    overflow: list[int]
    """Per level, appended items beyond what a code was built to hold."""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name -> SHA-256."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """What one delta, or several in a row, make of a catalogue.

    Attributes:
        items: Rows of the items table whose facts count from now on, one per item.
        new_ids: `M` ids of the items among them that the release does not have, in order of arrival.
        codes_ML: Their semantic IDs.
        content_MV: The vectors that these were made of.
        vectors_MD: Their two-tower vectors; None where the release has no two-tower.
        withdrawn: Ids of the items that are withdrawn after all.
    """

    items: pa.Table
    new_ids: pa.Array
    codes_ML: Codes
    content_MV: Floats
    vectors_MD: Floats | None
    withdrawn: pa.Array

    @property
    def touched(self) -> pa.Array:
        """Ids of all items that are spoken of."""
        return pc.unique(pa.concat_arrays([self.items["item_id"].combine_chunks(), self.withdrawn]))

    def then(self, later: Changes) -> Changes:
        """Return what these changes and later ones come to together."""
        replaced = pc.is_in(self.items["item_id"], value_set=later.items["item_id"].combine_chunks())
        back = pc.is_in(self.withdrawn, value_set=later.touched)
        return Changes(
            items=pa.concat_tables([self.items.filter(pc.invert(replaced)), later.items]).combine_chunks(),
            new_ids=pa.concat_arrays([self.new_ids, later.new_ids]),
            codes_ML=_behind(self.codes_ML, later.codes_ML),
            content_MV=_behind(self.content_MV, later.content_MV),
            vectors_MD=later.vectors_MD if self.vectors_MD is None else _behind(self.vectors_MD, later.vectors_MD),
            withdrawn=pa.concat_arrays([self.withdrawn.filter(pc.invert(back)), later.withdrawn]),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """A delta as read."""

    manifest: DeltaManifest
    digest: str
    """Of the manifest: what the next delta names as the one before."""
    changes: Changes


def deltas_folder(release: Path) -> Path:
    """Return the folder of a release's deltas, which need not be there."""
    return release.parent / FOLDER / release.name


def delta_numbers(release: Path) -> list[int]:
    """Return the numbers of a release's deltas, rising."""
    folder = deltas_folder(release)
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and (folder / name / MANIFEST).exists())


def delta_stamp(release: Path, after: int) -> tuple[tuple[str, int, int], ...]:
    """Return what tells whether the deltas after a number have changed: path, time and size of each of their files."""
    folders = [deltas_folder(release) / f"{number:06d}" for number in delta_numbers(release) if number > after]
    files = [(entry.path, entry.stat()) for folder in folders for entry in os.scandir(folder)]
    return tuple(sorted((path, status.st_mtime_ns, status.st_size) for path, status in files))


def read_deltas(
    release: Path, after: int = 0, previous: str = "", until: int | None = None
) -> tuple[list[Delta], DeltaError | None]:
    """Return the deltas after a number up to the first that cannot be used, and why it cannot.

    Args:
        release: Folder of the release.
        after: Number of the last delta that is known already.
        previous: Its digest; empty with none.
        until: Last number wanted; None for all there are.
    """
    deltas: list[Delta] = []
    try:
        for number in delta_numbers(release):
            if number <= after or (until is not None and number > until):
                continue
            deltas.append(_read(release, number, after, previous))
            after, previous = number, deltas[-1].digest
    except DeltaError as error:
        return deltas, error
    return deltas, None


def together(deltas: Sequence[Delta]) -> Changes | None:
    """Return what deltas in a row come to; None for none."""
    return functools.reduce(Changes.then, [delta.changes for delta in deltas]) if deltas else None


def write_delta(release: Path, manifest: DeltaManifest, changes: Changes) -> DeltaManifest:
    """Write a delta and return its manifest, digests filled in.

    Args:
        release: Folder of the release.
        manifest: Without `files`.
        changes: What it does.

    Raises:
        DeltaError: Another delta of this number was written meanwhile.
    """
    root = deltas_folder(release)
    root.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    folder = Path(tempfile.mkdtemp(dir=root, prefix=WRITING))
    try:
        files = _files(changes)
        for name, content in files.items():
            _write(folder / name, content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest = dataclasses.replace(manifest, files=digests)
        _write(folder / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=2, sort_keys=True).encode())
        folder.chmod(0o755)
        _publish(folder, root / f"{manifest.number:06d}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{WRITING}*"):
        with contextlib.suppress(FileNotFoundError):  # its writer, or another one, has just removed it
            if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _behind(first: npt.NDArray[Number], second: npt.NDArray[Number] | None) -> npt.NDArray[Number]:
    """Return the rows of both; of none the width is not known."""
    return np.concatenate([part for part in (first, second) if part is not None and len(part)] or [first])


def _publish(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        raise DeltaError(
            f"catalogue delta {target} is there already: another command wrote it meanwhile, or a copy of it was cut "
            f"off (remove it where it has no {MANIFEST}); run this command again"
        ) from error
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(release: Path, number: int, after: int, previous: str) -> Delta:
    """Read a delta and check that it follows the one before.

    Raises:
        DeltaError: It does not, or it is damaged.
    """
    folder = deltas_folder(release) / f"{number:06d}"
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = DeltaManifest(**json.loads(text))
        if (manifest.release_id, manifest.number, manifest.previous) != (release.name, after + 1, previous):
            raise ValueError(
                f"expected delta {after + 1} of release {release.name} behind {previous[:12] or 'none'}, got delta "
                f"{manifest.number} of {manifest.release_id} behind {manifest.previous[:12] or 'none'}"
            )
        files = {name: _checked(folder / name, digest) for name, digest in manifest.files.items()}
        changes = _changes(files)
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise DeltaError(
            f"catalogue delta {folder} cannot be used: {error}; copy it again from where it is whole, or remove it and "
            "those behind it and repeat what they did (`pagewise catalogue`)"
        ) from error
    return Delta(manifest=manifest, digest=hashlib.sha256(text).hexdigest(), changes=changes)


def _checked(path: Path, digest: str) -> bytes:
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise ValueError(f"{path.name} has digest {found[:12]}, expected {digest[:12]}")
    return content


def _files(changes: Changes) -> dict[str, bytes]:
    files = {
        ITEMS_FILE: _table_file(changes.items),
        CODES: codes_file(changes.new_ids, changes.codes_ML),
        CONTENT: vectors_file(changes.content_MV),
        WITHDRAWN: _table_file(pa.table([changes.withdrawn], schema=_WITHDRAWN_SCHEMA)),
    }
    if changes.vectors_MD is not None:
        files[VECTORS] = save({"vectors": np.ascontiguousarray(changes.vectors_MD, np.float32)})
    return files


def _changes(files: Mapping[str, bytes]) -> Changes:
    codes = pq.read_table(pa.BufferReader(files[CODES]), schema=CODES_SCHEMA)
    flat = np.asarray(codes["codes"].combine_chunks().flatten(), np.int32)
    withdrawn = pq.read_table(pa.BufferReader(files[WITHDRAWN]), schema=_WITHDRAWN_SCHEMA)
    return Changes(
        items=pq.read_table(pa.BufferReader(files[ITEMS_FILE]), schema=ITEMS),
        new_ids=codes["item_id"].combine_chunks(),
        codes_ML=flat.reshape(codes.num_rows, -1 if codes.num_rows else 0),
        content_MV=load(files[CONTENT])["vectors"].astype(np.float32),
        vectors_MD=load(files[VECTORS])["vectors"] if VECTORS in files else None,
        withdrawn=withdrawn["item_id"].combine_chunks(),
    )


def _table_file(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return bytes(sink.getvalue())


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def now() -> int:
    """Return the present moment, milliseconds since 1970 UTC."""
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
