"""GenRec's training run: data and semantic IDs in, a finished run in `checkpoints/genrec/` out.

Under `torchrun` every process calls `train_genrec`; the first one evaluates aloud, tracks and writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from features.schemas import VALIDATION
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.data import SequenceData, load_sequences
from models.genrec.model import GenRec
from models.genrec.source import PackedSource
from models.metrics import ranking_metrics
from models.recommend.catalogue import catalogue_of
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.tokenizer.bundle import Bundle
from models.training.config import TrainConfig
from models.training.genrec_run import (
    ROOT,
    STEPS,
    TRACKED,
    GenRecRun,
    is_finished,
    load_genrec,
    point_to,
    read_report,
    run_folder,
    write_run,
)
from models.training.loop import Evaluate, train
from models.training.position import TrainReport
from models.training.processes import barrier, rank, world_size
from models.training.tracking import Tracker, code_version

__all__ = ["GenRecRun", "GenRecTraining", "load_genrec", "train_genrec"]

_CASES, _ORDER, _WEIGHTS, _DROPOUT = range(4)
"""Named streams of random numbers."""
VALIDATED_AT = 10
"""Length of the lists that validation measures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenRecTraining:
    """What a training run did and where it lies."""

    run: str
    folder: str
    generation: str
    pages: int
    """Training pages."""
    dropped: dict[str, int]
    """What of the sequences is no training page or no target, by reason."""
    parameters: int
    train: TrainReport
    tracking: list[str]
    """Where to look at the curves."""

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return [
            f"GenRec: {self.parameters:,} parameters, {self.pages:,} training pages (left out: {dropped or 'nothing'})",
            *self.train.lines(),
            *self.tracking,
            f"run {self.run} of semantic IDs {self.generation}: {self.folder}",
        ]


def train_genrec(
    workspace: Workspace,
    model_config: GenRecConfig,
    train_config: TrainConfig,
    *,
    seed: int,
    generation: str | None = None,
    track: bool = True,
    tracking_uri: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> GenRecTraining:
    """Train GenRec on the `sequences` table and publish it; the same call again finds the finished run, or resumes it.

    Args:
        workspace: Holds `sequences`, `item_statistics` and the semantic IDs; on this machine.
        model_config: Shape of the model, of prompts and of batches.
        train_config: The loop. Weights are chosen by `monitor` on the validation split where that has pages.
        seed: Everything random follows from it.
        generation: Of the semantic IDs; None for the newest.
        track: Whether to record the run with MLflow.
        tracking_uri: An MLflow server; None for the workspace's own store.
        progress: Receives a line of text now and then.

    Raises:
        FileNotFoundError: A table or the semantic IDs are missing.
        ValueError: No training page remains, or the data make fewer batches than there are processes.
    """
    say = progress or (lambda line: None)
    bundle = Bundle.load(workspace, generation)
    catalogue = catalogue_of(bundle, workspace)
    data = load_sequences(workspace, catalogue, model_config)
    run = GenRecRun(
        model=model_config,
        train=train_config,
        seed=seed,
        generation=bundle.generation,
        codes_per_level=catalogue.vocabulary.codes_per_level,
        items=len(catalogue),
        catalogue=catalogue.fingerprint,
        sequences=workspace.table("sequences").manifest().fingerprint,
        code_version=code_version(),
    )
    tracking: list[str] = []
    if is_finished(workspace, run.name):
        say(f"run {run.name} is finished already")
        if rank() == 0:
            point_to(workspace, run.name)
            shutil.rmtree(run_folder(workspace, run.name) / STEPS, ignore_errors=True)  # killed at its very end
    else:
        tracking = _train(workspace, run, data, catalogue, track, tracking_uri, say)
    return GenRecTraining(
        run=run.name,
        folder=str(run_folder(workspace, run.name)),
        generation=run.generation,
        pages=data.pages,
        dropped=data.dropped,
        parameters=_parameters(run),
        train=read_report(workspace, run.name),
        tracking=tracking,
    )


def _train(
    workspace: Workspace,
    run: GenRecRun,
    data: SequenceData,
    catalogue: Catalogue,
    track: bool,
    tracking_uri: str | None,
    say: Callable[[str], None],
) -> list[str]:
    """Train and publish a run; return where it is tracked."""
    # TorchRec takes seconds to import, and who only loads a model does not need it.
    from models.training.distributed import process_group
    from models.training.export import full_state

    with process_group(torch.device("cpu")), contextlib.ExitStack() as stack:
        tracker = None
        if track and rank() == 0:
            tracker = stack.enter_context(_tracked(workspace, run, tracking_uri))
            for line in tracker.lines():
                say(line)
        source = PackedSource(
            data, catalogue, run.model, seed=_seed(run.seed, _ORDER), rank=rank(), world_size=world_size()
        )
        model = _build(run)
        report = train(
            model,
            source,
            run.train,
            checkpoints=run_folder(workspace, run.name) / STEPS,
            seed=_seed(run.seed, _DROPOUT),
            tracker=tracker,
            evaluate=_validation(workspace, run, model, catalogue, say),
            progress=say,
        )
        weights = full_state(model)
        if rank() == 0:
            write_run(workspace, run, weights, report)
            # A finished run is never resumed: other options make another run.
            shutil.rmtree(run_folder(workspace, run.name) / STEPS)
        if tracker is not None:
            tracker.text("\n".join(report.lines()), "training.txt")
        barrier()
        return tracker.lines() if tracker is not None else []


def _parameters(run: GenRecRun) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in run.build().parameters())


def _build(run: GenRecRun) -> GenRec:
    from models.training.tables import TorchRecTables

    torch.manual_seed(_seed(run.seed, _WEIGHTS))
    specs = GenRec.table_specs(run.model, run.items)
    return run.build(TorchRecTables(specs) if specs else None)


def _validation(
    workspace: Workspace, run: GenRecRun, model: GenRec, catalogue: Catalogue, say: Callable[[str], None]
) -> Evaluate | None:
    """Return the measurement of the model on a sample of validation pages, None where there are none."""
    try:
        cases = requests_from_sequences(workspace, catalogue, VALIDATION, max_history=run.model.max_history)
    except ValueError as error:
        say(f"no validation, the last weights will be used: {error}")
        return None
    rng = np.random.default_rng([run.seed, _CASES])
    count = min(len(cases), run.train.validation_pages)
    cases = cases.take(np.sort(rng.choice(len(cases), count, replace=False)))
    retriever = GenRecRetriever(model, catalogue, DecodeConfig(beams=2 * VALIDATED_AT))

    def evaluate(_: nn.Module) -> dict[str, float]:
        return _metrics(retriever, cases)

    return evaluate


def _metrics(retriever: GenRecRetriever, cases: EvaluationCases) -> dict[str, float]:
    items_BK = retriever.retrieve(cases.requests, VALIDATED_AT).items_BK
    values = ranking_metrics(items_BK, cases.relevant_items, cases.relevant_offsets, ks=(VALIDATED_AT,))
    return {name: float(values_B.mean()) for name, values_B in values.items()}


@contextlib.contextmanager
def _tracked(workspace: Workspace, run: GenRecRun, uri: str | None) -> Iterator[Tracker]:
    """Open the run's MLflow run, the earlier one if this is a resumption."""
    note = run_folder(workspace, run.name) / TRACKED
    tags = {
        "semantic_ids": run.generation,
        "catalogue": run.catalogue,
        "sequences": run.sequences,
        "checkpoint_run": run.name,
    }
    earlier = note.read_text() if note.exists() else None
    with Tracker(workspace, "genrec", run.name, tags=tags, uri=uri, earlier_run=earlier) as tracker:
        workspace.write_bytes(tracker.run_id.encode(), *ROOT, run.name, TRACKED)
        tracker.parameters({"genrec": run.to_json()["model"], "train": run.to_json()["train"], "seed": run.seed})
        yield tracker


def _seed(seed: int, stream: int) -> int:
    """Return the seed of a named stream."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
