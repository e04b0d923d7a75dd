"""A semantic-ID bundle: codes, codebooks, encoder and report of one generation, and the items appended since.

::

    semantic_ids/LATEST                     name of the newest generation, written last of all
    semantic_ids/000001-1f0c9a52/           number and digest of content
        codes.parquet                       item_id, codes list<int32>, zero-based per level
        codebooks.safetensors  vectors.safetensors  encoder/*
        report.json  plots/*.png
        manifest.json                       configuration, seed, inputs, digests; written after the rest
        appends/000001/codes.parquet, vectors.safetensors, manifest.json

A published file never changes; a folder without a manifest does not exist for readers.
Legend: `N` items, `L` levels (extra level included), `D` width of a vector.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

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
from models.tokenizer.vectors import ItemEncoder

ROOT = "semantic_ids"
LATEST = "LATEST"
CODES, CODEBOOKS, VECTORS, REPORT = "codes.parquet", "codebooks.safetensors", "vectors.safetensors", "report.json"
ENCODER, APPENDS = "encoder", "appends"
CODES_SCHEMA = pa.schema([("item_id", pa.string()), ("codes", pa.list_(pa.int32()))])


class MissingBundleError(FileNotFoundError):
    """A semantic-ID generation was asked for that does not exist."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """One generation as loaded; heavy parts are read when they are first asked for.

    Attributes:
        workspace: Where it lies.
        generation: Its name, `<number>-<digest>`.
        config: What it was built with.
        item_ids: `N` ids: published items in ascending order, then appended ones in order of arrival.
        codes_NL: Their codes.
        appends: Number of append deltas included.
        manifest: The published manifest.
    """

    workspace: Workspace
    generation: str
    config: SemanticIdConfig
    item_ids: pa.Array
    codes_NL: Codes
    appends: int
    manifest: dict[str, Any]

    @classmethod
    def load(cls, workspace: Workspace, generation: str | None = None) -> Bundle:
        """Read a generation with all its appends.

        Args:
            workspace: Where to look.
            generation: Its name; None for the newest.

        Raises:
            MissingBundleError: There is none of that name, or none at all.
        """
        generation = generation or latest_generation(workspace)
        manifest = read_manifest(workspace, generation)
        appends = append_numbers(workspace, generation)
        parts = [read_codes(workspace, generation)]
        parts += [read_codes(workspace, generation, APPENDS, number) for number in appends]
        return cls(
            workspace=workspace,
            generation=generation,
            config=SemanticIdConfig(**manifest["config"]),
            item_ids=pa.concat_arrays([ids for ids, _ in parts]),
            codes_NL=np.concatenate([codes_NL for _, codes_NL in parts]),
            appends=len(appends),
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
        return Catalogue(self.item_ids, self.codes_NL, self.config.codes_per_level, popularity_N)

    @cached_property
    def vectors(self) -> Floats:
        """What was quantised, `[N, D]` in the order of `item_ids`: content part, then collaborative part."""
        parts = [self._read(VECTORS)]
        parts += [self._read(APPENDS, number, VECTORS) for number in append_numbers(self.workspace, self.generation)]
        return np.concatenate([load(part)["vectors"] for part in parts]).astype(np.float32)[: len(self.item_ids)]

    @cached_property
    def quantizer(self) -> Quantizer:
        """The frozen quantiser."""
        return load_quantizer(self.config, self._read(CODEBOOKS))

    @cached_property
    def encoder(self) -> ItemEncoder:
        """The frozen encoder from items to vectors."""
        encoder = ItemEncoder(self.config, seed=0)
        names = [name for name in self.manifest["files"] if name.startswith(f"{ENCODER}/")]
        encoder.restore({name.removeprefix(f"{ENCODER}/"): self._read(*name.split("/")) for name in names})
        return encoder

    def _read(self, *parts: str) -> bytes:
        return self.workspace.read_bytes(ROOT, self.generation, *parts)


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
    digests = {name: hashlib.sha256(content[name]).hexdigest()[:16] for name in sorted(content)}
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
    """
    if not _exists(workspace, ROOT, LATEST):
        raise MissingBundleError(
            f"workspace {workspace.uri} has no semantic IDs: expected {workspace.path(ROOT, LATEST)}; "
            "run `pagewise semantic-ids`"
        )
    return workspace.read_bytes(ROOT, LATEST).decode().strip()


def read_manifest(workspace: Workspace, generation: str) -> dict[str, Any]:
    """Return a generation's manifest.

    Raises:
        MissingBundleError: There is no such generation.
    """
    if not _exists(workspace, ROOT, generation, MANIFEST):
        known = ", ".join(generations(workspace)) or "none"
        raise MissingBundleError(
            f"semantic-ID generation {generation!r} is not in workspace {workspace.uri}; complete generations: {known}"
        )
    manifest: dict[str, Any] = json.loads(workspace.read_bytes(ROOT, generation, MANIFEST))
    return manifest


def append_numbers(workspace: Workspace, generation: str) -> list[str]:
    """Return the numbers of a generation's complete append deltas, in order."""
    numbers = _folders(workspace, ROOT, generation, APPENDS)
    return [number for number in numbers if _exists(workspace, ROOT, generation, APPENDS, number, MANIFEST)]


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


def read_codes(workspace: Workspace, generation: str, *parts: str) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """Return ids and `[N, L]` codes of a generation or of one of its deltas."""
    table = pq.read_table(pa.BufferReader(workspace.read_bytes(ROOT, generation, *parts, CODES)), schema=CODES_SCHEMA)
    codes = np.asarray(table["codes"].combine_chunks().flatten(), np.int32)
    return table["item_id"].combine_chunks(), codes.reshape(table.num_rows, -1)


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
