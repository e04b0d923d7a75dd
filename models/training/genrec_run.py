"""A trained GenRec on disk: written once, complete or absent, and loaded without TorchRec.

::

    checkpoints/genrec/
        LATEST                  name of the newest finished run
        <run>/                  the run's name is a digest of its inputs: the same training finds itself again
            steps/              checkpoints (`models.training.checkpoints`) until the run is finished
            mlflow_run          id of its MLflow run
            weights.safetensors
            config.json         what the weights are: `GenRecRun`
            report.json         what the training did: `TrainReport`
            manifest.json       digests of the three, written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from features.semantic_ids import SidVocabulary
from features.workspace import MANIFEST, Workspace
from models.genrec.config import GenRecConfig
from models.genrec.model import GenRec
from models.training.config import TrainConfig
from models.training.export import load_weights, weights_bytes
from models.training.position import TrainReport

ROOT = ("checkpoints", "genrec")
LATEST, WEIGHTS, CONFIG, REPORT, STEPS, TRACKED = (
    "LATEST",
    "weights.safetensors",
    "config.json",
    "report.json",
    "steps",
    "mlflow_run",
)


class MissingRunError(FileNotFoundError):
    """A training run was asked for that does not exist or is not finished."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenRecRun:
    """What a GenRec was trained from; enough to build the module its weights fit."""

    model: GenRecConfig
    train: TrainConfig
    seed: int
    generation: str
    """Of the semantic IDs."""
    codes_per_level: tuple[int, ...]
    items: int
    """Rows of the item table: items of the catalogue at training time."""
    catalogue: str
    """Fingerprint of item ids and codes."""
    sequences: str
    """Fingerprint of the table `sequences`."""
    code_version: str

    @property
    def name(self) -> str:
        """The run's name: the generation's number and a digest of all inputs but the code version."""
        inputs = {key: value for key, value in dataclasses.asdict(self).items() if key != "code_version"}
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.generation.split('-')[0]}-{digest}"

    def build(self, tables: Any = None) -> GenRec:
        """Return the untrained module; see `GenRec` for `tables`."""
        return GenRec(self.model, SidVocabulary(self.codes_per_level), self.items, tables)

    def to_json(self) -> dict[str, Any]:
        """Return the run as a JSON document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> GenRecRun:
        """Read what `to_json` wrote."""
        parts = {
            "model": GenRecConfig(**document["model"]),
            "train": TrainConfig(**document["train"]),
            "codes_per_level": tuple(document["codes_per_level"]),
        }
        return cls(**{**document, **parts})


def run_folder(workspace: Workspace, name: str) -> Path:
    """Return the folder of a run, which may not exist yet."""
    return workspace.local_path(*ROOT, name)


def is_finished(workspace: Workspace, name: str) -> bool:
    """Whether a run of that name was trained to its end."""
    return (run_folder(workspace, name) / MANIFEST).exists()


def write_run(workspace: Workspace, run: GenRecRun, weights: Mapping[str, Tensor], report: TrainReport) -> None:
    """Publish a finished run and point LATEST at it."""
    files = {
        WEIGHTS: weights_bytes(weights),
        CONFIG: json.dumps(run.to_json(), indent=2, sort_keys=True).encode(),
        REPORT: json.dumps(dataclasses.asdict(report), indent=2, sort_keys=True).encode(),
    }
    for name, content in files.items():
        workspace.write_bytes(content, *ROOT, run.name, name)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    workspace.write_bytes(json.dumps({"files": digests}, indent=2).encode(), *ROOT, run.name, MANIFEST)
    point_to(workspace, run.name)


def point_to(workspace: Workspace, name: str) -> None:
    """Make a finished run the latest."""
    workspace.write_bytes(name.encode(), *ROOT, LATEST)


def read_report(workspace: Workspace, name: str) -> TrainReport:
    """Return what the training of a finished run did."""
    document = json.loads((run_folder(workspace, name) / REPORT).read_bytes())
    losses = [(int(step), float(loss)) for step, loss in document["losses"]]
    return TrainReport(**{**document, "losses": losses})


def load_genrec(workspace: Workspace, run: str | None = None) -> tuple[GenRec, GenRecRun]:
    """Load a finished run for evaluation or serving.

    Args:
        workspace: A workspace on this machine.
        run: The run's name; None for the latest.

    Returns:
        The model in evaluation mode, with plain tables, and what it was trained from.

    Raises:
        MissingRunError: There is no finished run of that name, or none at all.
        ValueError: A file does not have the digest its manifest tells.
    """
    name = run if run is not None else _latest(workspace)
    folder = run_folder(workspace, name)
    if not is_finished(workspace, name):
        known = sorted(path.parent.name for path in workspace.local_path(*ROOT).glob(f"*/{MANIFEST}"))
        raise MissingRunError(
            f"no finished GenRec run {name!r} in workspace {workspace.uri}; finished runs: {', '.join(known) or 'none'}"
        )
    for file, digest in json.loads((folder / MANIFEST).read_bytes())["files"].items():
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise ValueError(
                f"{folder / file} is damaged: its digest is not the one in {MANIFEST}; delete {folder} and run "
                "`pagewise train genrec` again"
            )
    record = GenRecRun.from_json(json.loads((folder / CONFIG).read_bytes()))
    model = record.build()
    load_weights(model, folder / WEIGHTS)
    return model.eval(), record


def _latest(workspace: Workspace) -> str:
    pointer = workspace.local_path(*ROOT, LATEST)
    if not pointer.exists():
        raise MissingRunError(
            f"workspace {workspace.uri} has no trained GenRec: expected {pointer}; run `pagewise train genrec`"
        )
    return pointer.read_text().strip()
