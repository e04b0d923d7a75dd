"""Evaluate what a workspace has trained: GenRec beside item transitions and the popular list, tracked with MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from features.workspace import Workspace
from models.genrec.config import DecodeConfig
from models.recommend.catalogue import catalogue_of
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import Retriever
from models.recommend.retrievers import PopularRetriever, TransitionsRetriever
from models.tokenizer.bundle import Bundle
from models.training.genrec_run import load_genrec
from models.training.tracking import Tracker
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.evaluate import evaluate, load_cases
from pipelines.evaluation.report import EvaluationReport

EXPERIMENT = "evaluation"


def measure(
    workspace: Workspace,
    config: EvaluateConfig,
    decode: DecodeConfig,
    seed: int,
    *,
    folder: Path,
    run: str | None = None,
    tracking_uri: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Rank the whole catalogue with a trained GenRec and its baselines; write the report and track it.

    Args:
        workspace: Holds tables, semantic IDs and the training run.
        config: Split, ranks, intervals.
        decode: GenRec's beam search.
        seed: Of samples and resamples.
        folder: Where the report goes.
        run: A finished GenRec run; None for the latest. Its generation of semantic IDs is used.
        tracking_uri: An MLflow server; None for the workspace's own store.
        progress: Told what is being done.

    Raises:
        FileNotFoundError: Nothing is trained, or a table is missing.
        ValueError: The split has no page to predict.
    """
    model, trained = load_genrec(workspace, run)
    if progress is not None and trained.sequences != workspace.table("sequences").manifest().fingerprint:
        progress(
            f"warning: GenRec run {trained.name} was trained on other sequences than those measured now; pages of the "
            f"{config.split} split may have been among its targets; train again to be sure"
        )
    catalogue = catalogue_of(Bundle.load(workspace, trained.generation), workspace)
    retrievers: list[Retriever] = [
        GenRecRetriever(model, catalogue, decode),
        TransitionsRetriever.from_tables(workspace, catalogue),
        PopularRetriever.from_tables(workspace, catalogue),
    ]
    cases = load_cases(workspace, catalogue, config, seed)
    report = evaluate(workspace, retrievers, cases, catalogue, config, seed, folder=folder, progress=progress)
    tags = {"semantic_ids": trained.generation, "checkpoint_run": trained.name, "sequences": trained.sequences}
    with Tracker(workspace, EXPERIMENT, f"{trained.name}-{config.split}", tags, tracking_uri) as tracker:
        tracker.metrics(report.tracked_metrics(), step=0)
        for path in report.artifacts:
            tracker.artifact(path)
    return report
