"""The evaluation run: every retriever ranks the whole catalogue for the same cases.

Legend: `B` cases, `K` candidates, `N` items.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.metrics import coverage, metric_key, novelty
from models.recommend.interface import RequestBatch, Retriever
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.recommend.retrievers import popularity_of
from pipelines.evaluation.comparison import compare, slice_means
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.report import EvaluationReport, RetrieverResult, written
from pipelines.evaluation.sampling import CASES, HALLUCINATION, SAMPLES, draw, sample_pages
from pipelines.evaluation.slices import Slice, slices_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@runtime_checkable
class Inventive(Protocol):
    """A retriever that can name items that do not exist when nothing constrains it."""

    def hallucination_rate(self, requests: RequestBatch) -> float:
        """Return the share of invalid answers of an unconstrained search."""
        ...


def load_cases(workspace: Workspace, catalogue: Catalogue, config: EvaluateConfig, seed: int) -> EvaluationCases:
    """Return the cases of `config.split`, at most `config.max_cases` of them, drawn at random."""
    cases = requests_from_sequences(
        workspace, catalogue, config.split, max_history=config.max_history, exclude_seen=config.exclude_seen
    )
    return cases.take(draw(len(cases), config.max_cases, seed, CASES))


def evaluate(
    workspace: Workspace,
    retrievers: Sequence[Retriever],
    cases: EvaluationCases,
    catalogue: Catalogue,
    config: EvaluateConfig,
    seed: int,
    *,
    folder: Path,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Measure all retrievers, compare them with the baselines among them, and write `report.json`, plots and samples.

    Args:
        workspace: Holds `item_statistics` (training popularity, for slices and novelty) and `clean_items` (titles).
        retrievers: Distinct names; those named in `config.baselines` are what the others are compared with.
        cases: What `load_cases` returns.
        catalogue: Numbers the items of cases and retrievers.
        config: Options.
        seed: Of resamples and samples.
        folder: Where the files go, usually `runs/evaluate/<input hash>` of the workspace.
        progress: Told when a retriever is done.

    Raises:
        ValueError: No retriever, or two of one name.
    """
    names = [retriever.name for retriever in retrievers]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"retrievers: expected at least one and distinct names, got {names}")
    popularity_N = popularity_of(workspace.table("item_statistics").read(["item_id", "popularity"]), catalogue)
    rankings = {}
    for retriever in retrievers:
        rankings[retriever.name] = ranking = _rank(retriever, cases, config, seed)
        if progress is not None:
            progress(f"{retriever.name}: {len(cases):,} pages ranked in {ranking.seconds:.1f} s")
    ranked = {name: ranking.items_BK for name, ranking in rankings.items()}
    parts = slices_of(cases, popularity_N, config.head_share)
    drawn = draw(len(cases), config.sample_pages, seed, SAMPLES)
    report = EvaluationReport(
        dataset=cases.dataset,
        split=cases.split,
        exclude_seen=cases.exclude_seen,
        order_only=cases.order_only,
        cases=len(cases),
        users=len(np.unique(cases.users_B)),
        catalogue_items=len(catalogue),
        catalogue_fingerprint=catalogue.fingerprint,
        left_out=dict(cases.left_out),
        main_k=config.main_k,
        seed=seed,
        resamples=config.resamples,
        slice_cases={part.name: len(part.rows) for part in parts},
        results=_results(rankings, cases, parts, popularity_N, config, seed),
        samples=sample_pages(workspace, ranked, cases, catalogue, drawn),
    )
    from pipelines.evaluation.plots import evaluation_plots  # matplotlib, for whoever measures: most runs find it done

    return written(report, folder, evaluation_plots(report, config.ks))


@dataclasses.dataclass(frozen=True)
class _Ranking:
    items_BK: Ints
    seconds: float
    hallucination_rate: float | None


def _rank(retriever: Retriever, cases: EvaluationCases, config: EvaluateConfig, seed: int) -> _Ranking:
    started = time.perf_counter()
    batches = [retriever.retrieve(batch.requests, config.ks[-1]).items_BK for batch in cases.batches(config.batch_size)]
    seconds = time.perf_counter() - started
    rate = None
    if isinstance(retriever, Inventive):
        drawn = draw(len(cases), config.hallucination_cases, seed, HALLUCINATION)
        rate = retriever.hallucination_rate(cases.requests.take(drawn))
    return _Ranking(np.concatenate(batches), seconds, rate)


def _results(
    rankings: dict[str, _Ranking],
    cases: EvaluationCases,
    parts: list[Slice],
    popularity_N: Floats,
    config: EvaluateConfig,
    seed: int,
) -> tuple[RetrieverResult, ...]:
    ranked = {name: ranking.items_BK for name, ranking in rankings.items()}
    means, differences = compare(ranked, cases, config, seed)
    of_slices = {part.name: slice_means(ranked, part, cases, config, seed) for part in parts}
    return tuple(
        RetrieverResult(
            name=name,
            metrics=means[name],
            differences=differences[name],
            slices={part.name: of_slices[part.name][name] for part in parts},
            catalogue_metrics=_catalogue_metrics(ranking.items_BK, popularity_N, config.ks),
            hallucination_rate=ranking.hallucination_rate,
            seconds=ranking.seconds,
        )
        for name, ranking in rankings.items()
    )


def _catalogue_metrics(ranked_BK: Ints, popularity_N: Floats, ks: Sequence[int]) -> dict[str, float]:
    measured = {metric_key("coverage", k): coverage(ranked_BK, len(popularity_N), k) for k in ks}
    if (ranked_BK >= 0).any():
        measured |= {metric_key("novelty", k): novelty(ranked_BK, popularity_N, k) for k in ks}
    return measured
