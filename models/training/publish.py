"""A training run of any kind of model, from its parts to a finished run on disk, tracked and resumable.

Under `torchrun` every process calls `train_and_publish`; the first one evaluates aloud, tracks and writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from features.workspace import Workspace
from models.training.config import TrainConfig
from models.training.loop import BatchSource, Evaluate, Referee, train
from models.training.position import TrainReport
from models.training.processes import barrier, rank, world_size
from models.training.runs import STEPS, TRACKED, WEIGHTS, Runs
from models.training.streams import DROPOUT, FIRST_WEIGHTS, stream_seed
from models.training.tracking import Tracker

Model = TypeVar("Model", bound=nn.Module)
MakeFiles = Callable[[Mapping[str, Tensor]], Mapping[str, bytes]]


def train_and_publish(
    workspace: Workspace,
    kind: str,
    name: str,
    *,
    config: Mapping[str, Any],
    build: Callable[[], Model],
    source: Callable[[int, int], BatchSource],
    train_config: TrainConfig,
    seed: int,
    evaluate: Callable[[Model], Evaluate | None] | None = None,
    referee: Referee | None = None,
    files: MakeFiles | None = None,
    tags: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    track: bool = True,
    tracking_uri: str | None = None,
    latest: bool = True,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Train a model and publish the run; the same call again finds the finished run, or resumes it.

    Args:
        workspace: On this machine.
        kind: See `Runs`; names the MLflow experiment too.
        name: Of the run, a digest of everything it depends on.
        config: What the weights are, as JSON: all that the kind's loader needs. Its part `model` is logged.
        build: Returns the untrained model. Called within the process group, right after first weights were seeded;
            may use TorchRec tables.
        source: Called with (rank, number of processes): the batches of this process.
        train_config: The loop. Weights are chosen by its `monitor` where there is an evaluation.
        seed: Everything random follows from it; see `models.training.streams`.
        evaluate: Called with the model on every process; returns its measurement, or None where there is nothing to
            measure.
        referee: Chooses the best weights, the ones that `build` returns among them, and may end the run.
        files: Called on the first process with the final weights, whole and on CPU, under the names of the plain
            model; returns further files of the run.
        tags: Where the run comes from, for MLflow.
        parameters: Further ones for MLflow, beside model, loop and seed.
        track: Whether to record the run with MLflow.
        tracking_uri: An MLflow server; None for the workspace's own store.
        latest: Whether the run becomes the kind's latest, which evaluation, releases and other models take.
        progress: Receives a line of text now and then.

    Returns:
        Where to look at the curves, as lines; none where the run was finished already or is not tracked.

    Raises:
        ValueError: The data make no batch, or a checkpoint does not fit.
        KeyboardInterrupt: Ctrl-C was pressed; a checkpoint was written first.
    """
    runs = Runs(workspace, kind)
    say = progress or (lambda line: None)
    if runs.is_finished(name):
        say(f"run {name} is finished already")
        if rank() == 0:
            if latest:
                runs.point_to(name)
            shutil.rmtree(runs.folder(name) / STEPS, ignore_errors=True)  # killed at its very end
        return []
    # TorchRec takes seconds to import, and who only loads a model does not need it.
    from models.training.distributed import process_group

    with process_group(torch.device("cpu")), contextlib.ExitStack() as stack:
        tracker = None
        if track and rank() == 0:
            own = {kind: config["model"], "train": dataclasses.asdict(train_config), "seed": seed}
            logged = {**own, **(parameters or {})}
            tracker = stack.enter_context(_tracked(runs, name, logged, tags or {}, tracking_uri))
            for line in tracker.lines():
                say(line)
        batches = source(rank(), world_size())
        torch.manual_seed(stream_seed(seed, FIRST_WEIGHTS))
        model = build()
        report = train(
            model,
            batches,
            train_config,
            checkpoints=runs.folder(name) / STEPS,
            seed=stream_seed(seed, DROPOUT),
            tracker=tracker,
            evaluate=evaluate(model) if evaluate is not None else None,
            referee=referee,
            progress=say,
        )
        _publish(runs, name, config, model, files, report, latest)
        if tracker is not None:
            tracker.text("\n".join(report.lines()), "training.txt")
        barrier()
        return tracker.lines() if tracker is not None else []


def _publish(
    runs: Runs,
    name: str,
    config: Mapping[str, Any],
    model: nn.Module,
    files: MakeFiles | None,
    report: TrainReport,
    latest: bool,
) -> None:
    """Gather the weights of all processes; the first one writes them."""
    from models.training.export import full_state, weights_bytes

    weights = full_state(model)
    if rank() != 0:
        return
    further = files(weights) if files is not None else {}
    runs.write(name, config, {WEIGHTS: weights_bytes(weights), **further}, report, latest=latest)
    # A finished run is never resumed: other options make another run.
    shutil.rmtree(runs.folder(name) / STEPS)


@contextlib.contextmanager
def _tracked(
    runs: Runs, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str], uri: str | None
) -> Iterator[Tracker]:
    """Open the run's MLflow run, the earlier one if this is a resumption."""
    note = runs.folder(name) / TRACKED
    earlier = note.read_text() if note.exists() else None
    tags = {**tags, "checkpoint_run": name}
    with Tracker(runs.workspace, runs.kind, name, tags=tags, uri=uri, earlier_run=earlier) as tracker:
        runs.note_tracked(name, tracker.run_id)
        tracker.parameters(parameters)
        yield tracker
