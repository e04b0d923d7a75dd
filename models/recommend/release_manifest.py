"""What a release says of itself, and whether its files are what it says; read without loading a model.

Whoever only finds, checks or names releases (the service's main process, the registry) needs none of the libraries
that the models need.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from features.workspace import MANIFEST

LATEST = "LATEST"


class ReleaseError(ValueError):
    """A release is incomplete, damaged or mixes generations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseManifest:
    """What a release consists of."""

    release_id: str
    generation: str
    """Of the semantic IDs; GenRec was trained on the same."""
    catalogue: str
    """Fingerprint of item ids and codes."""
    feature_schema: str
    """Digest of the contracts that history and items follow."""
    code_version: str
    retrievers: tuple[str, ...]
    runs: Mapping[str, str]
    """Kind of model -> the training run."""
    files: Mapping[str, str]
    """Path -> SHA-256."""
    metrics: Mapping[str, float]
    """Of the evaluation of what is inside."""


def read_manifest(directory: Path) -> ReleaseManifest:
    """Read a release's manifest; nothing is checked.

    Raises:
        FileNotFoundError: There is no release there.
        ReleaseError: It is no manifest.
    """
    path = directory / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"no release in {directory}: expected {path}; `pagewise run` writes releases")
    try:
        document = json.loads(path.read_bytes())
        document["retrievers"] = tuple(document["retrievers"])
        return ReleaseManifest(**document)
    except (ValueError, LookupError, TypeError) as error:
        raise ReleaseError(
            f"{path} is damaged, it is no manifest ({type(error).__name__}: {error}); {_again(directory)}"
        ) from error


def check_files(directory: Path, manifest: ReleaseManifest) -> None:
    """Compare a release's files with its manifest.

    Raises:
        ReleaseError: A file is missing or damaged.
    """
    for name, digest in manifest.files.items():
        path = directory / name
        if not path.exists():
            raise ReleaseError(f"release {manifest.release_id} is incomplete: {path} is missing; {_again(directory)}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise ReleaseError(
                f"release {manifest.release_id} is damaged: {path} has digest {found[:12]}, expected {digest[:12]}; "
                f"{_again(directory)}"
            )


def latest_release(releases: Path) -> Path:
    """Return the folder of the release written last.

    Raises:
        FileNotFoundError: There is none.
    """
    if not (releases / LATEST).exists():
        raise FileNotFoundError(f"no release in {releases}: expected {releases / LATEST}; `pagewise run` writes one")
    return releases / (releases / LATEST).read_text().strip()


def _again(directory: Path) -> str:
    return f"delete {directory}: `pagewise serve` fetches what is registered, `pagewise register` makes it anew"
