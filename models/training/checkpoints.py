"""Checkpoints in torch's distributed format: saved by N processes, read by M, complete or absent.

::

    checkpoints/
        step-00001200/    tensors (`*.distcp`, `.metadata`) and `progress.json`
        LATEST            {"name": "step-00001200"}: where to resume
        BEST              {"name": "step-00000800"}: the best evaluation so far
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch.distributed as dist

from features.workspace import write_atomically
from models.training.processes import barrier, rank

LATEST, BEST = "LATEST", "BEST"
PROGRESS = "progress.json"
LOGGERS = ("torch.distributed.checkpoint", "torch.distributed._shard", "c10d-NullHandler-dcp_logger")
KEPT = 2
"""How many of the newest checkpoints stay, beside the best."""


class Checkpoints:
    """The checkpoints of one run. Every method but `progress` must be called by all processes together.

    Only what reads or writes tensors imports torch's format, which takes most of a second: a run that is found finished
    does neither.

    Args:
        folder: A local folder, shared by all processes; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def progress(self, pointer: str = LATEST) -> dict[str, Any] | None:
        """Return what was saved beside the tensors of the checkpoint that `pointer` names, None if there is none."""
        name = self._name(pointer)
        if name is None:
            return None
        document: dict[str, Any] = json.loads((self.folder / name / PROGRESS).read_text())
        return document

    def load(self, state: dict[str, Any], pointer: str = LATEST) -> None:
        """Read tensors into the live `state`; the checkpoint may come from another number of processes.

        Raises:
            ValueError: The checkpoint does not fit: parameters are missing or have other shapes.
        """
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_loader import load

        path = self.folder / str(self._name(pointer))
        try:
            with _quiet():
                load(state, checkpoint_id=str(path), no_dist=not dist.is_initialized())
        except CheckpointException as error:
            cause = "; ".join(str(failure[0]) for failure in error.failures.values())
            raise ValueError(
                f"checkpoint {path} does not fit this model: {cause}; "
                "train into another folder, or delete this one to start afresh"
            ) from error

    def save(self, state: dict[str, Any], progress: dict[str, Any], *, best: bool) -> Path:
        """Write a checkpoint, then point to it; a crash at any moment leaves the previous one valid.

        Args:
            state: Tensors and sharded tensors.
            progress: JSON; its `step` names the checkpoint.
            best: Whether `BEST` points to it too.
        """
        from torch.distributed.checkpoint.state_dict_saver import save

        path = self.folder / f"step-{progress['step']:08d}"
        writing = self.folder / f".writing-{path.name}"
        if rank() == 0:
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
        barrier()
        with _quiet():
            save(state, checkpoint_id=str(writing), no_dist=not dist.is_initialized())
        if rank() == 0:
            self._publish(writing, path, progress, best)
        barrier()
        return path

    def _publish(self, writing: Path, path: Path, progress: dict[str, Any], best: bool) -> None:
        (writing / PROGRESS).write_text(json.dumps(progress))
        if path.exists():
            # Only where a run went back: a step's checkpoint is the same each time, so this loses nothing.
            shutil.rmtree(path)
        os.replace(writing, path)
        pointer = json.dumps({"name": path.name}).encode()
        for name in (BEST, LATEST) if best else (LATEST,):
            write_atomically(pafs.LocalFileSystem(), str(self.folder / name), pointer)
        self._prune()

    def _prune(self) -> None:
        saved = sorted(self.folder.glob("step-*"))
        kept = {path.name for path in saved[-KEPT:]} | {self._name(LATEST), self._name(BEST)}
        for path in saved:
            if path.name not in kept:
                shutil.rmtree(path)

    def _name(self, pointer: str) -> str | None:
        file = self.folder / pointer
        return str(json.loads(file.read_text())["name"]) if file.exists() else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's notices about formats it will deprecate."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
