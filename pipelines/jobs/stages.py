"""Steps of a job that are skipped while up to date: by what they read, how they are configured and what they wrote.

A stage that ran leaves `runs/<stage>/<input hash>/record.json`, written after everything else. It is up to date when
there is a record for its present inputs and configuration, and the outputs are still the recorded ones: killing a job
anywhere costs no more than the stage it was in, and running it again does nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from features.workspace import Workspace

RECORD = "record.json"
Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One step.

    Attributes:
        name: Its name, and the folder of its records.
        config: Everything that changes what it writes, as JSON-able values.
        inputs: Returns name -> fingerprint of what it reads, as it is now.
        outputs: Returns name -> fingerprint of what it writes, as it is now; an absent output is left out. Given the
            folder of its record.
        run: Does the work and returns the lines of its report. Given the folder of its record, which exists. It must be
            safe to repeat after having been killed.
    """

    name: str
    config: Any
    inputs: Callable[[], Mapping[str, str]]
    outputs: Callable[[Path], Mapping[str, str]]
    run: Callable[[Path], Sequence[str]]

    def folder(self, workspace: Workspace, inputs: Mapping[str, str] | None = None) -> Path:
        """Return the folder of its record for these inputs, default the present ones."""
        inputs = self.inputs() if inputs is None else inputs
        return workspace.local_path("runs", self.name, input_hash(self.name, inputs, self.config))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageResult:
    """What became of a stage.

    Attributes:
        skipped: Whether it was up to date.
        seconds: Time the work took; of the earlier run where it was skipped.
        folder: Where its record lies.
        report: The lines of its report.
    """

    name: str
    skipped: bool
    seconds: float
    folder: str
    report: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def run_stage(workspace: Workspace, stage: Stage) -> StageResult:
    """Run a stage unless it is up to date.

    Raises:
        RuntimeError: The stage ended without writing any of its outputs.
    """
    inputs = dict(stage.inputs())
    folder = stage.folder(workspace, inputs)
    record = _read(folder / RECORD)
    if record is not None and record["outputs"] == dict(stage.outputs(folder)):
        return _result(folder, record, skipped=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    started = time.monotonic()
    report = list(stage.run(folder))
    outputs = dict(stage.outputs(folder))
    if not outputs:
        raise RuntimeError(f"stage {stage.name} ended but wrote nothing: {report}")
    record = {
        "name": stage.name,
        "status": "done",
        "seconds": round(time.monotonic() - started, 3),
        "inputs": inputs,
        "config": stage.config,
        "outputs": outputs,
        "report": report,
    }
    workspace.write_bytes(_to_json(record), "runs", stage.name, folder.name, RECORD)
    return _result(folder, record, skipped=False)


def run_stages(workspace: Workspace, stages: Sequence[Stage], progress: Progress) -> list[StageResult]:
    """Run stages in order, telling `progress` of each."""
    results = []
    for number, stage in enumerate(stages, start=1):
        progress(f"[{number}/{len(stages)}] {stage.name}")
        result = run_stage(workspace, stage)
        lines = [f"up to date (took {result.seconds:.1f} s)"] if result.skipped else result.report
        for line in lines:
            progress(f"  {line}")
        results.append(result)
    return results


def input_hash(name: str, inputs: Mapping[str, str], config: Any) -> str:
    """Return a digest of everything that decides what a stage writes.

    Example:
        >>> input_hash("a", {"x": "1"}, {"k": 2}) == input_hash("a", {"x": "1"}, {"k": 3})
        False
    """
    return hashlib.sha256(_to_json([name, dict(inputs), config])).hexdigest()[:16]


def table_fingerprints(workspace: Workspace, *names: str) -> dict[str, str]:
    """Return the fingerprints of those tables that have been committed, notes included."""
    found = {}
    for name in names:
        table = workspace.table(name)
        if table.exists():
            manifest = table.manifest()
            notes = hashlib.sha256(_to_json(dict(manifest.notes))).hexdigest()[:8]
            found[name] = f"{manifest.fingerprint}-{notes}"
    return found


def file_fingerprint(workspace: Workspace, *parts: str) -> dict[str, str]:
    """Return path -> digest of one file, nothing where there is none."""
    path = workspace.path(*parts)
    if workspace.filesystem.get_file_info(path).type != pafs.FileType.File:
        return {}
    return {"/".join(parts): hashlib.sha256(workspace.read_bytes(*parts)).hexdigest()[:16]}


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_bytes()) if path.exists() else None


def _result(folder: Path, record: Mapping[str, Any], *, skipped: bool) -> StageResult:
    return StageResult(
        name=record["name"],
        skipped=skipped,
        seconds=record["seconds"],
        folder=str(folder),
        report=tuple(record["report"]),
        inputs=record["inputs"],
        outputs=record["outputs"],
    )


def _to_json(document: Any) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode()
