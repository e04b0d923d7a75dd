"""The registry of releases: versions of the registered MLflow model `pagewise`, aliases challenger and champion.

A version holds the release folder as artefact and says by tags what is in it and who promoted it. The registered
model's tag `champions` lists all champions, oldest first; rolling back takes the last one off.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.secrets import without_passwords
from features.workspace import MANIFEST, Workspace
from models.recommend.delta_files import FOLDER, delta_numbers
from models.recommend.release_manifest import check_files, read_manifest
from models.training.tracking import Tracker, mlflow_client, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MODEL = "pagewise"
CHALLENGER, CHAMPION = "challenger", "champion"
RELEASE_ID, GENERATION, PROMOTED_BY, ROLLED_BACK_TO = "release_id", "sid_generation", "promoted_by", "rolled_back_to"
CHAMPIONS = "champions"
EXPERIMENT, ARTIFACT = "releases", "release"
LOCK = ".lock"
REMEMBERED = 100
"""Champions kept in the model's tag."""


class RegistryError(ValueError):
    """The registry does not hold what was asked for, or a promotion is not allowed."""


class Registry:
    """Registers, promotes, rolls back and fetches releases.

    Args:
        workspace: Holds `releases/`, and the MLflow store unless `uri` names another.
        uri: A tracking server or database; None for the workspace's own.
        progress: Told what of the old champion's catalogue deltas a new champion takes over.
    """

    def __init__(
        self, workspace: Workspace, uri: str | None = None, progress: Callable[[str], None] | None = None
    ) -> None:
        self.workspace = workspace
        self._say = progress or (lambda line: None)
        self.uri = uri or tracking_uri(workspace)
        self.address = without_passwords(self.uri)
        self._server = uri
        self._client = mlflow_client(self.uri)

    def register(self, directory: Path) -> int:
        """Upload a release and make it the challenger; a release that is registered already keeps its version.

        Args:
            directory: What `write_release` published.

        Returns:
            The version.

        Raises:
            FileNotFoundError: There is no release there.
            ReleaseError: A file of it is missing or damaged; nothing is registered.
        """
        manifest = read_manifest(directory)
        check_files(directory, manifest)
        known = self._version_of(manifest.release_id)
        if known is not None:
            self._client.set_registered_model_alias(MODEL, CHALLENGER, str(known))
            return known
        tags = {RELEASE_ID: manifest.release_id, GENERATION: manifest.generation}
        with Tracker(self.workspace, EXPERIMENT, manifest.release_id, tags, self._server) as tracker:
            tracker.metrics(manifest.metrics, step=0)
            tracker.artifact(directory, ARTIFACT)
        if not self._exists():
            self._client.create_registered_model(MODEL)
        version = self._client.create_model_version(
            MODEL,
            source=f"runs:/{tracker.run_id}/{ARTIFACT}",
            run_id=tracker.run_id,
            tags={**tags, **{name: f"{value:.6g}" for name, value in manifest.metrics.items()}},
        )
        self._client.set_registered_model_alias(MODEL, CHALLENGER, version.version)
        return int(version.version)

    def promote(self, version: int | None = None, *, force: bool = False, verdict: Path | None = None) -> str:
        """Make a version the champion; it takes over what the old champion's catalogue deltas say.

        Args:
            version: Default: the challenger.
            force: Promote without a verdict; recorded. A damaged release is not promoted by force either.
            verdict: What `pagewise replay` wrote: a JSON object with `challenger` and `champion`, the release ids
                compared, and `promote`, the decision.

        Returns:
            Why it was allowed, as recorded in the tag `promoted_by`: `first`, `force` or the verdict's digest.

        Raises:
            RegistryError: There is no such version, or a champion is there and neither a fitting verdict nor force.
            ReleaseError: A file of the release is missing or damaged; the champion stays.
        """
        with self.held():
            return self._promote(version, force, verdict)

    def compared(self, version: int | None = None) -> tuple[str, str | None]:
        """Return the release ids that a verdict about a version must name: its own, and the champion's if there is one.

        Args:
            version: Default: the challenger.

        Raises:
            RegistryError: There is no such version.
        """
        candidate = self._alias(CHALLENGER) if version is None else self._version(version)
        return candidate.tags[RELEASE_ID], self.release_id(CHAMPION)

    def release_id(self, alias: str) -> str | None:
        """Return the id of the release that has the alias, None where none has it."""
        return None if self.version(alias) is None else str(self._alias(alias).tags[RELEASE_ID])

    def _promote(self, version: int | None, force: bool, verdict: Path | None) -> str:
        candidate = self._alias(CHALLENGER) if version is None else self._version(version)
        champion = self._champion()
        if champion is not None and champion.version == candidate.version:
            return str(candidate.tags[PROMOTED_BY])
        reason = _reason(candidate, champion, force, verdict)
        self._check_files(candidate)
        past = [] if champion is None else self._past(int(champion.version))
        if champion is not None:
            self._carry_over(champion, candidate)
        self._client.set_model_version_tag(MODEL, candidate.version, PROMOTED_BY, reason)
        self._remember([*past, int(candidate.version)])
        self._client.set_registered_model_alias(MODEL, CHAMPION, candidate.version)
        return reason

    def rollback(self) -> int:
        """Make the previous champion the champion again and return its version; it takes over catalogue deltas.

        Raises:
            RegistryError: There is no champion, or none before it.
            ReleaseError: A file of the previous champion's release is missing or damaged; the champion stays.
        """
        with self.held():
            return self._rollback()

    def _rollback(self) -> int:
        champion = self._alias(CHAMPION)
        past = self._past(int(champion.version))[:-1]
        if not past:
            raise RegistryError(
                f"nothing to roll back to: version {champion.version} is the first champion; promote another one"
            )
        previous = self._version(past[-1])
        self._check_files(previous)
        self._carry_over(champion, previous)
        self._client.set_registered_model_alias(MODEL, CHAMPION, previous.version)
        self._remember(past)
        self._client.set_model_version_tag(MODEL, champion.version, ROLLED_BACK_TO, previous.version)
        return int(previous.version)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep promotions and writers of catalogue deltas of this workspace apart: one waits for the other.

        Who writes deltas resolves the release and writes within; else a delta may reach a champion whose deltas a new
        one has taken over already. The lock is the kernel's, and gone with its process.
        """
        path = self.workspace.local_path("releases", FOLDER, LOCK)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def resolve(self, alias: str = CHAMPION) -> Path:
        """Return the local folder of the release behind an alias; it is fetched to `releases/` if it is not there.

        Raises:
            RegistryError: Nothing has this alias.
        """
        return self._local(self._alias(alias))

    def version(self, alias: str) -> int | None:
        """Return the version that has the alias, None where no version has it."""
        found = self._aliases().get(alias)
        return None if found is None else int(found)

    def _check_files(self, version: ModelVersion) -> None:
        """Refuse a damaged release before the alias moves: a service that starts with it would not start."""
        folder = self._local(version)
        check_files(folder, read_manifest(folder))

    def _carry_over(self, old: ModelVersion, new: ModelVersion) -> None:
        """Take over catalogue deltas before the alias moves: what is withdrawn must not come back with a release."""
        if delta_numbers(self._folder(old)):
            from models.recommend.delta_changes import carry_over  # loads models: a service asks for releases without

            for line in carry_over(self._local(old), self._local(new)):
                self._say(line)

    def _folder(self, version: ModelVersion) -> Path:
        return self.workspace.local_path("releases", version.tags[RELEASE_ID])

    def _local(self, version: ModelVersion) -> Path:
        """Return the folder of a version's release, fetched if it is not there."""
        folder = self._folder(version)
        if not (folder / MANIFEST).exists():
            self._fetch(version, folder)
        return folder

    def _fetch(self, version: ModelVersion, folder: Path) -> None:
        from mlflow.artifacts import download_artifacts

        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as temporary:
            source = self._client.get_model_version_download_uri(MODEL, version.version)
            fetched = download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=self.uri)
            shutil.rmtree(folder, ignore_errors=True)
            Path(fetched).rename(folder)

    def _champion(self) -> ModelVersion | None:
        return None if self.version(CHAMPION) is None else self._alias(CHAMPION)

    def _past(self, present: int) -> list[int]:
        """Return all champions up to the present one; later entries are of promotions that were cut off."""
        text = self._client.get_registered_model(MODEL).tags.get(CHAMPIONS, "[]")
        champions: list[int] = json.loads(text)
        while champions and champions[-1] != present:
            champions.pop()
        return champions or [present]

    def _remember(self, champions: list[int]) -> None:
        self._client.set_registered_model_tag(MODEL, CHAMPIONS, json.dumps(champions[-REMEMBERED:]))

    def _aliases(self) -> dict[str, str]:
        return dict(self._client.get_registered_model(MODEL).aliases) if self._exists() else {}

    def _exists(self) -> bool:
        return bool(self._client.search_registered_models(f"name = '{MODEL}'"))

    def _versions(self) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{MODEL}'")) if self._exists() else []

    def _version_of(self, release_id: str) -> int | None:
        found = [int(version.version) for version in self._versions() if version.tags.get(RELEASE_ID) == release_id]
        return max(found, default=None)

    def _version(self, number: int) -> ModelVersion:
        versions = {int(version.version): version for version in self._versions()}
        if number not in versions:
            raise RegistryError(
                f"no version {number} of {MODEL!r} in {self.address}; registered: {sorted(versions) or 'none'}; "
                "`pagewise register` adds one"
            )
        return versions[number]

    def _alias(self, alias: str) -> ModelVersion:
        number = self.version(alias)
        if number is None:
            how = _HOW_TO_GET.get(alias, f"known aliases: {', '.join(sorted(self._aliases())) or 'none'}")
            raise RegistryError(f"no version of {MODEL!r} is {alias} in {self.address}; {how}")
        return self._version(number)


_HOW_TO_GET = {
    CHALLENGER: "`pagewise register` makes the newest release the challenger",
    CHAMPION: "`pagewise promote` makes a registered release the champion",
}


def _reason(candidate: ModelVersion, champion: ModelVersion | None, force: bool, verdict: Path | None) -> str:
    """Return why the candidate may become the champion."""
    if verdict is not None:
        compared = (candidate.tags[RELEASE_ID], None if champion is None else champion.tags[RELEASE_ID])
        return _verdict_reason(verdict, *compared)
    if champion is None:
        return "first"
    if force:
        return "force"
    raise RegistryError(
        f"version {champion.version} is the champion: promoting version {candidate.version} needs a replay verdict "
        "in its favour (`pagewise replay`, or --verdict FILE) or --force"
    )


def _verdict_reason(path: Path, challenger: str, champion: str | None) -> str:
    if not path.exists():
        raise FileNotFoundError(f"no verdict at {path}; `pagewise replay` writes one")
    content = path.read_bytes()
    verdict = _read_verdict(path, content)
    for name, expected in (("challenger", challenger), ("champion", champion)):
        if verdict.get(name) != expected:
            raise RegistryError(
                f"verdict {path}: expected {name} {expected!r}, got {verdict.get(name)!r}; it is about other releases"
            )
    if "refused" in verdict:
        raise RegistryError(
            f"verdict {path}: expected promote true, got a replay that was refused: {verdict['refused']}; mend that "
            "and replay again, or --force promotes anyway"
        )
    if verdict.get("promote") is not True:
        raise RegistryError(
            f"verdict {path} does not say that {challenger!r} is better: expected promote true, got "
            f"{verdict.get('promote')!r}; --force promotes anyway"
        )
    return f"verdict {hashlib.sha256(content).hexdigest()[:12]}"


def _read_verdict(path: Path, content: bytes) -> dict[str, Any]:
    try:
        verdict = json.loads(content)
    except ValueError:
        verdict = None
    if not isinstance(verdict, dict):
        raise RegistryError(f"verdict {path}: expected a JSON object, as `pagewise replay` writes it")
    return verdict
