"""GenRec's training run: data and semantic IDs in, a finished run in `checkpoints/genrec/` out.

Under `torchrun` every process calls `train_genrec`; the first one evaluates aloud, tracks and writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.data import load_sequences
from models.genrec.model import GenRec
from models.genrec.pretrained import Checkpoint, start_from
from models.genrec.source import PackedSource
from models.metrics import metric_keys, ranking_metrics
from models.recommend.catalogue import catalogue_of
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.requests import EvaluationCases
from models.tokenizer.bundle import Bundle
from models.training.config import TrainConfig, check_monitor
from models.training.genrec_run import KIND, GenRecRun, load_genrec
from models.training.genrec_users import newest_users, with_users
from models.training.loop import Evaluate
from models.training.position import PublishedTraining, described_counts
from models.training.publish import train_and_publish
from models.training.runs import WEIGHTS, Runs
from models.training.streams import ORDER, stream_seed
from models.training.tracking import code_version
from models.training.two_tower_run import KIND as TWO_TOWER
from models.training.validation import validation_cases
from models.training.warm import WARM_FROM, find_start, load_fitting, split_of
from models.two_tower.model import TwoTower

__all__ = ["GenRecRun", "GenRecTraining", "load_genrec", "train_genrec"]

VALIDATED_AT = 10
"""Length of the lists that validation measures."""
MONITORS = metric_keys((VALIDATED_AT,))
"""What weights can be chosen by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenRecTraining(PublishedTraining):
    """What the training of a GenRec did."""

    generation: str
    """Of the semantic IDs."""
    dropped: dict[str, int]
    """What of the sequences is no training page or no target, by reason."""

    def data_lines(self) -> list[str]:
        """Return sizes and pages."""
        return [
            f"GenRec: {self.parameters:,} parameters, {self.pages:,} training pages "
            f"(left out: {described_counts(self.dropped)})"
        ]

    @property
    def title(self) -> str:
        """The run and its semantic IDs."""
        return f"{self.run} of semantic IDs {self.generation}"


def train_genrec(
    workspace: Workspace,
    model_config: GenRecConfig,
    train_config: TrainConfig,
    *,
    seed: int,
    generation: str | None = None,
    track: bool = True,
    tracking_uri: str | None = None,
    latest: bool = True,
    progress: Callable[[str], None] | None = None,
) -> GenRecTraining:
    """Train GenRec on the `sequences` table and publish it; the same call again finds the finished run, or resumes it.

    Args:
        workspace: Holds `sequences`, `item_statistics`, the semantic IDs and, for `user_prefix`, a two-tower run; on
            this machine.
        model_config: Shape of the model, of prompts and of batches.
        train_config: The loop. Weights are chosen by `monitor` on the validation split where that has pages.
        seed: Everything random follows from it.
        generation: Of the semantic IDs; None for the newest.
        track: Whether to record the run with MLflow.
        tracking_uri: An MLflow server; None for the workspace's own store.
        latest: Whether it becomes the GenRec that evaluation, releases and alignment take.
        progress: Receives a line of text now and then.

    Raises:
        FileNotFoundError: A table, the semantic IDs, the two-tower run or the checkpoint to start from are missing.
        ValueError: `monitor` is unknown, the two-tower's vectors are not of width `user_prefix`, the checkpoint to
            start from is of another shape, no training page remains, or the data make fewer batches than there are
            processes.
    """
    check_monitor("train", train_config, MONITORS)
    bundle = Bundle.load(workspace, generation)
    catalogue = catalogue_of(bundle, workspace)
    data = load_sequences(workspace, catalogue, model_config)
    users, two_tower = newest_users(workspace, model_config)
    checkpoint = _checkpoint(model_config)
    say = progress or (lambda line: None)
    run = GenRecRun(
        model=model_config,
        train=train_config,
        seed=seed,
        generation=bundle.generation,
        codes_per_level=catalogue.vocabulary.codes_per_level,
        items=len(catalogue),
        vector_width=catalogue.item_vectors.shape[1] if model_config.item_vectors else 0,
        catalogue=catalogue.fingerprint,
        sequences=workspace.table("sequences").manifest().fingerprint,
        code_version=code_version(),
        two_tower=two_tower,
        pretrained=None if checkpoint is None else checkpoint.digest(),
        split=split_of(workspace),
    )
    start = find_start(
        workspace,
        KIND,
        train_config,
        run.to_json(),
        vary=("sequences", "two_tower"),
        fits=lambda before: _users_reason(workspace, before.config["two_tower"], two_tower),
        say=say,
    )
    run = dataclasses.replace(run, warm_from=start.warm_from)
    tracking = train_and_publish(
        workspace,
        KIND,
        run.name,
        config=run.to_json(),
        build=lambda: _build(run, checkpoint, Runs(workspace, KIND)),
        source=lambda rank, world_size: PackedSource(
            with_users(workspace, catalogue, data, users),
            catalogue,
            model_config,
            seed=stream_seed(seed, ORDER),
            rank=rank,
            world_size=world_size,
        ),
        train_config=start.train,
        seed=seed,
        evaluate=lambda model: _validation(workspace, run, model, catalogue, users, say),
        tags={"semantic_ids": run.generation, "catalogue": run.catalogue, "sequences": run.sequences},
        track=track,
        tracking_uri=tracking_uri,
        latest=latest,
        progress=progress,
    )
    runs = Runs(workspace, KIND)
    return GenRecTraining(
        run=run.name,
        folder=str(runs.folder(run.name)),
        generation=run.generation,
        pages=data.pages,
        dropped=data.dropped,
        parameters=_parameters(run),
        train=runs.read_report(run.name),
        tracking=tracking,
    )


def _parameters(run: GenRecRun) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in run.build().parameters())


def _checkpoint(config: GenRecConfig) -> Checkpoint | None:
    """Return the checkpoint to start from, which must be of the model's shape; None where there is none."""
    if config.pretrained is None:
        return None
    checkpoint = Checkpoint.open(config.pretrained)
    checkpoint.check(config)
    return checkpoint


def _users_reason(workspace: Workspace, before: str | None, now: str | None) -> str | None:
    """Return why user vectors mean something else now, None where they do not: their model has been trained on."""
    if before == now or now is None:
        return None if before == now else "it had user vectors"
    earlier = Runs(workspace, TWO_TOWER).open(now).config.get(WARM_FROM)
    return None if earlier == before else f"user vectors are those of another two-tower model, {now}"


def _build(run: GenRecRun, checkpoint: Checkpoint | None, runs: Runs) -> GenRec:
    from models.training.tables import TorchRecTables

    specs = GenRec.table_specs(run.model, run.items)
    model = run.build(TorchRecTables(specs) if specs else None)
    if run.warm_from is not None:
        load_fitting(model, runs.folder(run.warm_from) / WEIGHTS)
    elif checkpoint is not None:
        start_from(model, checkpoint)
    return model


def _validation(
    workspace: Workspace,
    run: GenRecRun,
    model: GenRec,
    catalogue: Catalogue,
    users: TwoTower | None,
    say: Callable[[str], None],
) -> Evaluate | None:
    """Return the measurement of the model on a sample of validation pages, None where there are none."""
    pages, max_history = run.train.validation_pages, run.model.max_history
    cases = validation_cases(workspace, catalogue, pages=pages, max_history=max_history, seed=run.seed, progress=say)
    if cases is None:
        return None

    def evaluate(_: nn.Module) -> dict[str, float]:
        # Made anew each time: the keys of an item head follow from the weights of the moment.
        return _metrics(GenRecRetriever(model, catalogue, DecodeConfig(beams=2 * VALIDATED_AT), users), cases)

    return evaluate


def _metrics(retriever: GenRecRetriever, cases: EvaluationCases) -> dict[str, float]:
    items_BK = retriever.retrieve(cases.requests, VALIDATED_AT).items_BK
    values = ranking_metrics(items_BK, cases.relevant_items, cases.relevant_offsets, ks=(VALIDATED_AT,))
    return {name: float(values_B.mean()) for name, values_B in values.items()}
