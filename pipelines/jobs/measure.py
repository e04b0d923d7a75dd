"""Evaluate what a workspace has trained: the page maker, its retrievers, the baselines; tracked with MLflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from features.workspace import Workspace
from models.recommend.catalogue import catalogue_of
from models.recommend.fresh import with_past_items
from models.recommend.interface import Candidates, RequestBatch, Retriever
from models.recommend.recommender import FUSION, PAGE, Recommender
from models.recommend.release_parts import GENREC, ReleaseConfig, latest_runs, page_maker
from models.tokenizer.bundle import Bundle
from models.training.genrec_run import load_genrec
from models.training.tracking import Tracker
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.evaluate import evaluate, load_cases
from pipelines.evaluation.report import EvaluationReport

EXPERIMENT = "evaluation"


class PageOrder:
    """The page maker's order, measured like a retriever's; keeps the order before the ranker for `FusionOrder`.

    Args:
        recommender: Makes the pages.
    """

    name = PAGE

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self._fusions: dict[tuple[str, ...], Candidates] = {}

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return the first `k` items of the order that pages are drawn from."""
        page, self._fusions[_key(requests, k)] = self.recommender.orders(requests, k)
        return page

    def fusion(self, requests: RequestBatch, k: int) -> Candidates:
        """Return the order before the ranker; retrieving for the same requests again would double the time."""
        if _key(requests, k) not in self._fusions:
            self.retrieve(requests, k)
        return self._fusions.pop(_key(requests, k))


class FusionOrder:
    """The page maker without its ranker.

    Args:
        page: The page maker with its ranker.
    """

    name = FUSION

    def __init__(self, page: PageOrder) -> None:
        self.page = page

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """Return the first `k` items of the fused lists."""
        return self.page.fusion(requests, k)


def _key(requests: RequestBatch, k: int) -> tuple[str, ...]:
    return (*requests.user_ids, str(requests.times_B.tolist()), str(k))


def measure(
    workspace: Workspace,
    config: EvaluateConfig,
    answers: ReleaseConfig,
    seed: int,
    *,
    folder: Path,
    runs: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Rank the whole catalogue with everything that is trained and the baselines; write the report and track it.

    Measured are each retriever by itself, the fusion of all, and the page maker with its ranker.

    Args:
        workspace: Holds tables, semantic IDs and training runs.
        config: Split, ranks, intervals.
        answers: The page maker, GenRec's beam search, the index.
        seed: Of samples and resamples.
        folder: Where the report goes.
        runs: Kind of model -> a finished run; None for the latest of each kind. GenRec's generation of semantic IDs is
            used, the newest without GenRec.
        tracking_uri: An MLflow server; None for the workspace's own store.
        progress: Told what is being done.

    Raises:
        FileNotFoundError: A table or the semantic IDs are missing.
        ValueError: Nothing is trained, or the split has no page to predict.
    """
    runs = latest_runs(workspace, progress) if runs is None else runs
    if not runs:
        raise ValueError(
            f"workspace {workspace.uri} has no trained model to evaluate; run `pagewise train genrec`, "
            "`pagewise train two-tower` or `pagewise train ranker`"
        )
    generation = _generation(workspace, runs, config, progress)
    bundle = Bundle.load(workspace, generation)
    catalogue = catalogue_of(bundle, workspace)
    # seen items are left out where the cases say so, and nowhere else
    recommend = dataclasses.replace(answers.recommend, exclude_seen=config.exclude_seen)
    answers = dataclasses.replace(answers, recommend=recommend)
    maker = with_past_items(page_maker(workspace, catalogue, bundle.generation, runs, answers), workspace)
    cases = load_cases(workspace, catalogue, config, seed)
    report = evaluate(workspace, _measured(maker), cases, catalogue, config, seed, folder=folder, progress=progress)
    tags = {"semantic_ids": bundle.generation, **{f"{kind}_run": name for kind, name in runs.items()}}
    name = f"{'-'.join(runs.values())}-{config.split}"
    with Tracker(workspace, EXPERIMENT, name, tags, tracking_uri) as tracker:
        tracker.metrics(report.tracked_metrics(), step=0)
        for path in report.artifacts:
            tracker.artifact(path)
    return report


def _measured(maker: Recommender) -> list[Retriever]:
    """Return the page maker, its fusion where a ranker comes after it, and its retrievers."""
    page = PageOrder(maker)
    ranked = maker.ranker is not None and maker.config.ranker_weight > 0
    return [page, *([FusionOrder(page)] if ranked else []), *maker.retrievers.values()]


def _generation(
    workspace: Workspace, runs: Mapping[str, str], config: EvaluateConfig, progress: Callable[[str], None] | None
) -> str | None:
    """Return GenRec's generation of semantic IDs; None, for the newest, without GenRec."""
    if GENREC not in runs:
        return None
    _, trained = load_genrec(workspace, runs[GENREC])
    if progress is not None and trained.sequences != workspace.table("sequences").manifest().fingerprint:
        progress(
            f"warning: GenRec run {trained.name} was trained on other sequences than those measured now; pages of the "
            f"{config.split} split may have been among its targets; train again to be sure"
        )
    return trained.generation
