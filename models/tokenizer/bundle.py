"""A semantic-ID bundle: codes, codebooks, encoder and report of one generation.

::

    semantic_ids/LATEST                     name of the newest generation, written last of all
    semantic_ids/000001-1f0c9a52/           number and digest of content
        codes.parquet                       item_id, codes list<int32>, zero-based per level
        codebooks.safetensors  vectors.safetensors  encoder/*
        report.json  plots/*.png
        manifest.json                       configuration, seed, inputs, digests; written after the rest

A published file never changes and is compared with its digest when it is read; a folder without a manifest does not
exist for readers. Items that come later get codes by the same encoder (`append`), in the catalogue deltas of releases.
Legend: `N` items, `L` levels (extra level included), `D` width of a vector.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from safetensors.numpy import load, save

from features.semantic_ids import Catalogue
from features.workspace import MANIFEST, Workspace
from models.tokenizer.config import SemanticIdConfig
from models.tokenizer.quantizer import Codes, Floats, Quantizer, load_quantizer

if TYPE_CHECKING:
    from models.tokenizer.vectors import ItemEncoder

ROOT = "semantic_ids"
LATEST = "LATEST"
CODES, CODEBOOKS, VECTORS, REPORT = "codes.parquet", "codebooks.safetensors", "vectors.safetensors", "report.json"
ENCODER = "encoder"
_GENERATION = re.compile(r"\d{6,}-[0-9a-f]{8}")
CODES_SCHEMA = pa.schema([("item_id", pa.string()), ("codes", pa.list_(pa.int32()))])


class MissingBundleError(FileNotFoundError):
    """A semantic-ID generation was asked for that does not exist."""


class DamagedBundleError(ValueError):
    """A file of a semantic-ID generation is not what was published."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """One generation as loaded; heavy parts are read when they are first asked for.

    Attributes:
        workspace: Where it lies.
        generation: Its name, `<number>-<digest>`.
        config: What it was built with.
        item_ids: `N` ids in ascending order.
        codes_NL: Their codes.
        manifest: The published manifest.
    """

    workspace: Workspace
    generation: str
    config: SemanticIdConfig
    item_ids: pa.Array
    codes_NL: Codes
    manifest: dict[str, Any]

    @classmethod
    def load(cls, workspace: Workspace, generation: str | None = None) -> Bundle:
        """Read a generation.

        Args:
            workspace: Where to look.
            generation: Its name; None for the newest.

        Raises:
            MissingBundleError: There is none of that name, or none at all.
            DamagedBundleError: A file is missing, or is not what was published.
        """
        generation = generation or latest_generation(workspace)
        manifest = read_manifest(workspace, generation)
        item_ids, codes_NL = _read_codes(workspace, generation)
        return cls(
            workspace=workspace,
            generation=generation,
            config=_config(workspace, generation, manifest),
            item_ids=item_ids,
            codes_NL=codes_NL,
            manifest=manifest,
        )

    def catalogue(self, popularity: Mapping[str, float] | None = None) -> Catalogue:
        """Return the catalogue of the bundle's items, in the bundle's order.

        Args:
            popularity: Item id -> popularity, orders the items of one ID; items not named count as 0.
        """
        popularity_N = None
        if popularity is not None:
            popularity_N = np.array([popularity.get(item, 0.0) for item in self.item_ids.to_pylist()])
        return Catalogue(self.item_ids, self.codes_NL, self.config.codes_per_level, popularity_N, lambda: self.vectors)

    @cached_property
    def vectors(self) -> Floats:
        """What was quantised, `[N, D]` in the order of `item_ids`: content part, then collaborative part."""
        vectors_ND: Floats = load(self._read(VECTORS))["vectors"].astype(np.float32)
        return vectors_ND

    @cached_property
    def quantizer(self) -> Quantizer:
        """The frozen quantiser."""
        return load_quantizer(self.config, self._read(CODEBOOKS))

    @cached_property
    def encoder(self) -> ItemEncoder:
        """The frozen encoder from items to vectors."""
        from models.tokenizer.vectors import ItemEncoder  # scikit-learn, for those who encode items: nobody who serves

        encoder = ItemEncoder(self.config, seed=0)
        names = [name for name in self.manifest["files"] if name.startswith(f"{ENCODER}/")]
        encoder.restore({name.removeprefix(f"{ENCODER}/"): self._read(name) for name in names})
        return encoder

    def _read(self, name: str) -> bytes:
        return _read_file(self.workspace, self.generation, name)


def publish(
    workspace: Workspace,
    config: SemanticIdConfig,
    content: Mapping[str, bytes],
    extras: Mapping[str, bytes],
    manifest: Mapping[str, Any],
) -> str:
    """Write a generation and point LATEST at it; return its name.

    Args:
        workspace: Where to write.
        config: What the generation was built with.
        content: Files by relative path. Their bytes and `config` make the generation's digest; a generation of the same
            digest is not written again.
        extras: Files that are for people to look at and leave the digest alone.
        manifest: More entries for the manifest.
    """
    digests = file_digests(content)
    document = {**manifest, "config": dataclasses.asdict(config), "files": digests}
    digest = hashlib.sha256(json_file({"config": document["config"], "files": digests})).hexdigest()[:8]
    existing = generations(workspace)
    generation = next((name for name in existing if name.endswith(f"-{digest}")), None)
    if generation is None:
        number = max((int(name.split("-")[0]) for name in existing), default=0) + 1
        generation = f"{number:06d}-{digest}"
        for name, data in {**content, **extras}.items():
            workspace.write_bytes(data, ROOT, generation, *name.split("/"))
        workspace.write_bytes(json_file({**document, "generation": generation}), ROOT, generation, MANIFEST)
    workspace.write_bytes(generation.encode(), ROOT, LATEST)
    return generation


def generations(workspace: Workspace) -> list[str]:
    """Return the names of all complete generations, oldest first."""
    return [name for name in _folders(workspace, ROOT) if _exists(workspace, ROOT, name, MANIFEST)]


def latest_generation(workspace: Workspace) -> str:
    """Return the name of the newest generation.

    Raises:
        MissingBundleError: There is none.
        DamagedBundleError: The file that should name it holds something else.
    """
    if not _exists(workspace, ROOT, LATEST):
        raise MissingBundleError(
            f"workspace {workspace.uri} has no semantic IDs: expected {workspace.path(ROOT, LATEST)}; "
            "run `pagewise semantic-ids`"
        )
    name = workspace.read_bytes(ROOT, LATEST).decode(errors="replace").strip()
    if not _GENERATION.fullmatch(name):
        raise DamagedBundleError(
            f"{workspace.path(ROOT, LATEST)} is damaged: expected the name of a generation, like 000001-1f0c9a52, got "
            f"{name!r}; delete it and run `pagewise semantic-ids`"
        )
    return name


def read_manifest(workspace: Workspace, generation: str) -> dict[str, Any]:
    """Return the manifest of a generation.

    Raises:
        MissingBundleError: There is no such generation.
        DamagedBundleError: It cannot be read.
    """
    if not _exists(workspace, ROOT, generation, MANIFEST):
        known = ", ".join(generations(workspace)) or "none"
        raise MissingBundleError(
            f"semantic-ID generation {generation!r} is not in workspace {workspace.uri}; complete generations: {known}"
            "; put its folder back, or train again what was trained on it"
        )
    try:
        manifest: dict[str, Any] = json.loads(workspace.read_bytes(ROOT, generation, MANIFEST))
        dict(manifest["files"])
    except (ValueError, LookupError, TypeError) as error:
        what = f"it is no manifest ({type(error).__name__}: {error})"
        raise _damaged(workspace, generation, MANIFEST, what) from error
    return manifest


def codes_file(item_ids: pa.Array, codes_NL: Codes) -> bytes:
    """Return ids and codes as a Parquet file."""
    offsets = pa.array(np.arange(len(codes_NL) + 1) * codes_NL.shape[1], pa.int32())
    codes = pa.ListArray.from_arrays(offsets, pa.array(codes_NL.reshape(-1), pa.int32()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays([item_ids, codes], schema=CODES_SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def vectors_file(vectors_ND: Floats) -> bytes:
    """Return vectors, rounded to half precision, as a safetensors file."""
    return bytes(save({"vectors": vectors_ND.astype(np.float16)}))


def file_digests(content: Mapping[str, bytes]) -> dict[str, str]:
    """Return what a manifest tells of its files: name -> digest."""
    return {name: _digest(content[name]) for name in sorted(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read_file(workspace: Workspace, generation: str, name: str) -> bytes:
    """Return a file of a generation as it was published."""
    expected = read_manifest(workspace, generation)["files"].get(name)
    path = (ROOT, generation, *name.split("/"))
    if not _exists(workspace, *path):
        raise _damaged(workspace, generation, name, "it is missing")
    content = workspace.read_bytes(*path)
    if _digest(content) != expected:
        what = f"expected digest {expected}, got {_digest(content)}"
        raise _damaged(workspace, generation, name, what)
    return content


def _read_codes(workspace: Workspace, generation: str) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """Return ids and `[N, L]` codes of a generation."""
    content = _read_file(workspace, generation, CODES)
    table = pq.read_table(pa.BufferReader(content), schema=CODES_SCHEMA)
    codes = np.asarray(table["codes"].combine_chunks().flatten(), np.int32)
    return table["item_id"].combine_chunks(), codes.reshape(table.num_rows, -1)


def _config(workspace: Workspace, generation: str, manifest: Mapping[str, Any]) -> SemanticIdConfig:
    try:
        return SemanticIdConfig(**manifest["config"])
    except (KeyError, TypeError, ValueError) as error:
        what = f"its configuration cannot be used ({type(error).__name__}: {error})"
        raise _damaged(workspace, generation, MANIFEST, what) from error


def _damaged(workspace: Workspace, generation: str, name: str, what: str) -> DamagedBundleError:
    path = workspace.path(ROOT, generation, *name.split("/"))
    return DamagedBundleError(
        f"semantic IDs {generation} are damaged: {path}: {what}; put the folder "
        f"back from a copy, or delete {workspace.path(ROOT, generation)} and run `pagewise semantic-ids`"
    )


def _folders(workspace: Workspace, *parts: str) -> list[str]:
    selector = pafs.FileSelector(workspace.path(*parts), allow_not_found=True)
    found = workspace.filesystem.get_file_info(selector)
    return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)


def _exists(workspace: Workspace, *parts: str) -> bool:
    info = workspace.filesystem.get_file_info(workspace.path(*parts))
    return bool(info.type == pafs.FileType.File)


def json_file(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON, keys sorted."""
    return json.dumps(document, indent=2, sort_keys=True).encode()
