"""Policies by their names: found before anything is loaded or read; imports nothing heavy.

What they make of pages: `pipelines.replay.policies`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

from features.workspace import MANIFEST, Workspace
from models.recommend.delta_files import delta_numbers
from models.recommend.ranked import POPULAR, TRANSITIONS
from models.registry import CHALLENGER, CHAMPION, Registry

Kind = Literal["release", "popular", "transitions", "uniform", "logged", "table"]
RELEASE, UNIFORM, LOGGED, TABLE = "release", "uniform", "logged", "table"
_TABLE_PREFIX = "table:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedPolicy:
    """A policy that was found; small and picklable.

    Attributes:
        name: As it was asked for.
        kind: What it is.
        release: Folder of the release.
        delta: Number of its last catalogue delta, 0 for none.
        file: The table's file.
        content: Digest of it.
    """

    name: str
    kind: Kind
    release: Path | None = None
    delta: int = 0
    file: str | None = None
    content: str | None = None

    @property
    def release_id(self) -> str | None:
        """Id of the release, None for what is none."""
        return None if self.release is None else self.release.name

    @property
    def label(self) -> str:
        """What to call it in a report."""
        if self.release is None:
            return self.name if self.kind in (self.name, TABLE) else f"{self.name} ({self.kind})"
        return f"release {self.release.name}" + ("" if self.name == self.release.name else f" ({self.name})")

    @property
    def estimated(self) -> bool:
        """Whether its probabilities are estimates."""
        return self.kind == TABLE


def named_policy(name: str, workspace: Workspace, tracking_uri: str | None = None) -> NamedPolicy:
    """Find a policy (`ReplayConfig.champion`).

    Args:
        name: Alias or id of a release, a rule, `logged` or `table:FILE`.
        workspace: Holds the releases, and the registry unless `tracking_uri` names another.
        tracking_uri: See `models.registry.Registry`.

    Raises:
        ValueError: Nothing is called so.
        FileNotFoundError: There is no such table.
    """
    if name in (POPULAR, TRANSITIONS, UNIFORM, LOGGED):
        return NamedPolicy(name=name, kind=name)  # type: ignore[arg-type]
    if name.startswith(_TABLE_PREFIX):
        file = name.removeprefix(_TABLE_PREFIX)
        if not Path(file).is_file():
            raise FileNotFoundError(f"policy {name!r}: expected a Parquet file at {file}, there is none")
        content = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
        return NamedPolicy(name=name, kind="table", file=file, content=content)
    if name in (CHAMPION, CHALLENGER):
        registry = Registry(workspace, tracking_uri)
        if name == CHAMPION and registry.version(CHAMPION) is None:
            return NamedPolicy(name=name, kind="logged")
        return _of_release(name, registry.resolve(name))
    folder = workspace.local_path("releases", name)
    if not name or not (folder / MANIFEST).exists():
        raise ValueError(
            f"policy {name!r}: expected {CHAMPION}, {CHALLENGER}, {POPULAR}, {TRANSITIONS}, {UNIFORM}, {LOGGED}, "
            f"{_TABLE_PREFIX}FILE or the id of a release in {workspace.path('releases')}"
        )
    return _of_release(name, folder)


def _of_release(name: str, folder: Path) -> NamedPolicy:
    return NamedPolicy(name=name, kind="release", release=folder, delta=max(delta_numbers(folder), default=0))
