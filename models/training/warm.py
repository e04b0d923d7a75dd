"""Starting a training from the weights of the last run: where days were added, and nothing else has changed.

A run that starts so names the one it starts from (`warm_from`); the same training finds itself again. Held-out pages
must stay unseen: the earlier run may have trained on nothing that is held out now, so only splits by time that have
moved on are accepted.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor, nn

from features.workspace import Workspace
from models.training.config import TrainConfig
from models.training.runs import LATEST, FinishedRun, Runs

WARM_FROM, SPLIT = "warm_from", "split"
Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows of a new table, and the rows of an old one they start from."""
_ALWAYS_VARY = {WARM_FROM, SPLIT, "code_version"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where a training starts.

    Attributes:
        warm_from: The run whose weights it starts from; None: from nothing.
        run: That run, where it is there to be read.
        train: The loop: shorter where it starts from weights.
    """

    warm_from: str | None
    run: FinishedRun | None
    train: TrainConfig


def find_start(
    workspace: Workspace,
    kind: str,
    train: TrainConfig,
    document: Mapping[str, Any],
    *,
    vary: Collection[str],
    fits: Callable[[FinishedRun], str | None] = lambda run: None,
    say: Callable[[str], None],
) -> Start:
    """Decide whether a training starts from the newest run of its kind.

    Args:
        workspace: Holds the runs.
        kind: Of model.
        train: The loop; `warm_start` says whether, and how long then.
        document: What `config.json` will hold.
        vary: Entries of it that more days change.
        fits: Returns why the weights of a run do not fit, None where they do.
        say: Told why a run starts from nothing, or where it starts.
    """
    cold = Start(warm_from=None, run=None, train=train)
    runs = Runs(workspace, kind)
    name = runs.pointed_at(LATEST)
    if train.warm_start is None or name is None or not runs.is_finished(name):
        return cold
    run = runs.open(name)
    before, now = (_comparable(part) for part in (run.config, document))
    if before == now:
        earlier = run.config.get(WARM_FROM)
        return cold if earlier is None else _warm(runs, earlier, train)
    reason = _changed(before, now, vary) or _split_reason(run.config.get(SPLIT), document.get(SPLIT)) or fits(run)
    if reason is not None:
        say(f"from new weights, not those of run {name}: {reason}")
        return cold
    say(f"starts from the weights of run {name}")
    return _warm(runs, name, train)


def split_of(workspace: Workspace) -> dict[str, Any] | None:
    """Return how `sequences` were split."""
    split = workspace.table("sequences").manifest().notes.get("split")
    return dict(split) if split is not None else None


def load_fitting(
    model: nn.Module,
    path: Path,
    rows: Mapping[str, Rows] | None = None,
    own: Callable[[str], bool] = lambda name: False,
) -> None:
    """Copy weights into a model that may have grown.

    Args:
        model: New, not yet sharded.
        path: Weights of a smaller or equal model.
        rows: Of tables that grew, by the names of their weights: new rows keep the values they came with.
        own: Whether the model keeps its own weights of a name.

    Raises:
        ValueError: Shapes differ where no rows are told.
    """
    rows = rows or {}
    with safe_open(path, framework="pt") as file, torch.no_grad():
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no mapping
        for name, weight in model.state_dict().items():
            if not own(name):
                _copy(name, weight, held.get(name), rows.get(name))


def matched_rows(now: npt.NDArray[np.uint64], before: npt.NDArray[np.uint64]) -> Rows:
    """Return the places of the common values of two vocabularies.

    Example:
        >>> [rows.tolist() for rows in matched_rows(np.array([2, 5, 9], np.uint64), np.array([5, 7, 9], np.uint64))]
        [[1, 2], [0, 2]]
    """
    _, new, old = np.intersect1d(now, before, return_indices=True)
    return new.astype(np.int64), old.astype(np.int64)


def _copy(name: str, weight: Tensor, held: Tensor | None, rows: Rows | None) -> None:
    if held is not None and rows is not None:
        weight[torch.from_numpy(rows[0])] = held[torch.from_numpy(rows[1])]
    elif held is not None and held.shape == weight.shape:
        weight.copy_(held)
    else:
        shape = "none" if held is None else tuple(held.shape)
        raise ValueError(f"weights to start from: expected {name} of shape {tuple(weight.shape)}, got {shape}")


def _warm(runs: Runs, name: str, train: TrainConfig) -> Start:
    assert train.warm_start is not None
    epochs = max(1, math.ceil(train.epochs * train.warm_start))
    run = runs.open(name) if runs.is_finished(name) else None
    return Start(warm_from=name, run=run, train=dataclasses.replace(train, epochs=epochs))


def _comparable(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json.loads(json.dumps(value)) for key, value in document.items() if key not in _ALWAYS_VARY}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], vary: Collection[str]) -> str | None:
    changed = [key for key in {**before, **now} if key not in vary and before.get(key) != now.get(key)]
    return f"changed: {', '.join(sorted(changed))}" if changed else None


def _split_reason(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str | None:
    """Return why the earlier run may have learned pages that are held out now."""
    ends = [None if split is None else split.get("validation_ms") for split in (before, now)]
    if ends[0] is None or ends[1] is None:
        return "it is not known that it has learned no page that is held out now (splits by time tell)"
    return "it has learned pages that are held out now" if ends[1] < ends[0] else None
