"""Finished training runs on disk, of any kind of model: written once, complete or absent, read without TorchRec.

::

    checkpoints/<kind>/
        LATEST                  name of the newest finished run
        ALIGNED                 name of the newest aligned run, of kind genrec only
        <run>/                  the run's name is a digest of its inputs: the same training finds itself again
            steps/              checkpoints (`models.training.checkpoints`) until the run is finished
            mlflow_run          id of its MLflow run
            weights.safetensors
            config.json         what the weights are, for the kind's own loader
            report.json         what the training did: `TrainReport`
            ...                 files of the kind: vocabularies, vectors
            manifest.json       digests of these, written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.workspace import MANIFEST, Workspace
from models.training.position import TrainReport

LATEST, WEIGHTS, CONFIG, REPORT, STEPS, TRACKED = (
    "LATEST",
    "weights.safetensors",
    "config.json",
    "report.json",
    "steps",
    "mlflow_run",
)
ALIGNED = "ALIGNED"
TITLES = {
    "genrec": "GenRec",
    "two_tower": "two-tower model",
    "ranker": "ranker",
    "reward": "reward model",
    "blend": "learned fusion",
}
"""Kinds of models as messages call them."""


class MissingRunError(FileNotFoundError):
    """A training run was asked for that does not exist or is not finished."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run whose files have the digests of its manifest."""

    name: str
    folder: Path
    config: dict[str, Any]


class Runs:
    """The training runs of one kind of model in a workspace on this machine.

    Args:
        workspace: Where they lie.
        kind: One of `TITLES`.

    Raises:
        ValueError: The kind is another.
    """

    def __init__(self, workspace: Workspace, kind: str) -> None:
        if kind not in TITLES:
            raise ValueError(f"kind of model: expected one of {', '.join(TITLES)}, got {kind!r}")
        self.workspace, self.kind = workspace, kind
        self._root = ("checkpoints", kind)

    def folder(self, name: str) -> Path:
        """Return the folder of a run, which may not exist yet."""
        return self.workspace.local_path(*self._root, name)

    def is_finished(self, name: str) -> bool:
        """Whether a run of that name was trained to its end."""
        return (self.folder(name) / MANIFEST).exists()

    def write(
        self,
        name: str,
        config: Mapping[str, Any],
        files: Mapping[str, bytes],
        report: TrainReport,
        *,
        latest: bool = True,
    ) -> None:
        """Publish a finished run.

        Args:
            name: Its name.
            config: What the weights are, as JSON.
            files: `weights.safetensors` and what else the kind needs, by file name.
            report: What the training did.
            latest: Whether it becomes the run that is meant where none is named.

        Raises:
            ValueError: There are no weights, or a file has the name of one that is written here.
        """
        own = {CONFIG: _json(config), REPORT: _json(dataclasses.asdict(report))}
        taken = sorted(files.keys() & {*own, MANIFEST, STEPS, TRACKED})
        if WEIGHTS not in files or taken:
            names = ", ".join(taken) or "the run's own"
            raise ValueError(f"files of a run: expected {WEIGHTS} and none named {names}, got {sorted(files)}")
        contents = {**files, **own}
        for file, content in contents.items():
            self.workspace.write_bytes(content, *self._root, name, file)
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
        self.workspace.write_bytes(json.dumps({"files": digests}, indent=2).encode(), *self._root, name, MANIFEST)
        if latest:
            self.point_to(name)

    def point_to(self, name: str, pointer: str = LATEST) -> None:
        """Make a finished run the latest, or the newest aligned one."""
        self.workspace.write_bytes(name.encode(), *self._root, pointer)

    def forget(self, pointer: str) -> None:
        """Let a pointer name nothing; the runs stay."""
        self.workspace.local_path(*self._root, pointer).unlink(missing_ok=True)

    def pointed_at(self, pointer: str) -> str | None:
        """Return the run that a pointer names, None where it names nothing."""
        file = self.workspace.local_path(*self._root, pointer)
        return file.read_text(errors="replace").strip() if file.exists() else None

    def note_tracked(self, name: str, run_id: str) -> None:
        """Keep the id of the MLflow run, for a resumption to go on with it."""
        self.workspace.write_bytes(run_id.encode(), *self._root, name, TRACKED)

    def latest(self) -> str:
        """Return the name of the newest finished run.

        Raises:
            MissingRunError: There is none.
        """
        name = self.pointed_at(LATEST)
        if name is None:
            raise MissingRunError(
                f"workspace {self.workspace.uri} has no trained {self._title}: expected "
                f"{self.workspace.local_path(*self._root, LATEST)}; run `{self._command()}`"
            )
        return name

    def read_report(self, name: str) -> TrainReport:
        """Return what the training of a finished run did."""
        return TrainReport.from_json(json.loads((self.folder(name) / REPORT).read_bytes()))

    def open(self, name: str | None = None) -> FinishedRun:
        """Return a finished run after a check of its files.

        Args:
            name: The run's name; None for the latest.

        Raises:
            MissingRunError: There is no finished run of that name, or none at all.
            ValueError: A file does not have the digest its manifest tells.
        """
        name = name if name is not None else self.latest()
        folder = self.folder(name)
        if not self.is_finished(name):
            known = sorted(path.parent.name for path in self.workspace.local_path(*self._root).glob(f"*/{MANIFEST}"))
            raise MissingRunError(
                f"no finished {self._title} run {name!r} in workspace {self.workspace.uri}; finished runs: "
                f"{', '.join(known) or 'none'}; `{self._command(name)}` makes one, {folder.parent / LATEST} names the "
                "one that is taken"
            )
        for file, digest in self._digests(name).items():
            path = folder / file
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ValueError(
                    f"{path} is {'damaged: its digest is not the one' if path.exists() else 'missing: it is listed'} "
                    f"in {MANIFEST}; {self._again(name)}"
                )
        return FinishedRun(name=name, folder=folder, config=json.loads((folder / CONFIG).read_bytes()))

    def _digests(self, name: str) -> dict[str, str]:
        """Return what a finished run's manifest tells of its files."""
        path = self.folder(name) / MANIFEST
        try:
            return dict(json.loads(path.read_bytes())["files"])
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is damaged, it is no manifest; {self._again(name)}") from error

    def _again(self, name: str) -> str:
        return f"delete {self.folder(name)} and run `{self._command(name)}` again"

    @property
    def _title(self) -> str:
        return TITLES[self.kind]

    def _command(self, name: str | None = None) -> str:
        """Return what makes runs of this kind, and the one of that name."""
        if self.kind == "reward" or (name is not None and name == self.pointed_at(ALIGNED)):
            return "pagewise align"
        return f"pagewise train {self.kind.replace('_', '-')}"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode()
