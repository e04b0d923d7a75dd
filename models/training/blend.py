"""The learned fusion's training: weights of the retrievers' and the ranker's scores, fitted on validation pages.

Legend: `P` pages, `F` candidates of a page, `R` sources.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from scipy.optimize import minimize

from features.workspace import Workspace
from models.metrics import hits, metric_key, ranking_metrics
from models.recommend.blend import Blend
from models.recommend.blend_config import BlendConfig
from models.recommend.catalogue import catalogue_of
from models.recommend.fresh import with_past_items
from models.recommend.interface import NO_ITEM
from models.recommend.recommender import Recommender
from models.recommend.release_parts import BLEND, GENREC, ReleaseConfig, latest_runs, page_maker
from models.recommend.requests import EvaluationCases
from models.tokenizer.bundle import Bundle
from models.training.genrec_run import load_genrec
from models.training.meters import peak_rss_mb
from models.training.position import TrainReport
from models.training.runs import WEIGHTS, Runs
from models.training.validation import validation_cases

Floats = npt.NDArray[np.float64]
_BATCH = 256
_AT = (10,)
_MAX_HISTORY = 50
"""Newest history entries of a page, as in evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What decides a fit: candidates of pages, what each source says of them, and which were liked.

    Attributes:
        items_PF: Catalogue numbers, `NO_ITEM` where there is none.
        relative_PFR: From `models.recommend.blend.relative_scores`.
        ranks_PF: The same candidates in the order of `recommend.fusion=ranks`.
        sources: Names of the `R` sources.
    """

    items_PF: npt.NDArray[np.int64]
    relative_PFR: npt.NDArray[np.float32]
    ranks_PF: npt.NDArray[np.int64]
    sources: tuple[str, ...]

    def take(self, rows: npt.NDArray[np.int64]) -> Evidence:
        """Return the evidence of some pages."""
        return Evidence(
            items_PF=self.items_PF[rows],
            relative_PFR=self.relative_PFR[rows],
            ranks_PF=self.ranks_PF[rows],
            sources=self.sources,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlendTraining:
    """What a fit of the learned fusion did and where it lies."""

    run: str
    folder: str
    pages: int
    seconds: float
    """Making the candidates included."""
    weights: Mapping[str, float]
    by_ranks: Mapping[str, float]
    """The metrics of `recommend.fusion=ranks` on the pages."""
    learned: Mapping[str, float]
    """Those of the learned fusion, each half of the pages with weights fitted on the other."""

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        described = ", ".join(f"{source} {weight:.3f}" for source, weight in self.weights.items())
        return [
            f"learned fusion: {described}; fitted on {self.pages:,} validation pages in {self.seconds:.1f} s",
            "by ranks -> learned on the other half: "
            + ", ".join(f"{name} {self.by_ranks[name]:.4f} -> {self.learned[name]:.4f}" for name in self.by_ranks),
            f"run {self.run}: {self.folder}",
        ]


def train_blend(
    workspace: Workspace,
    config: BlendConfig,
    answers: ReleaseConfig,
    *,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> BlendTraining:
    """Fit the learned fusion for the newest run of every model; the same call again finds it.

    The run becomes the one that evaluation and releases take.

    Args:
        workspace: Holds tables, semantic IDs and training runs; on this machine.
        config: The fit.
        answers: The page maker whose candidates are weighed.
        seed: Draws the pages.
        progress: Receives a line of text now and then.

    Raises:
        FileNotFoundError: A table, the semantic IDs or GenRec's generation are missing.
        ValueError: There are no validation pages, or fewer than two of them can be predicted.
    """
    say = progress or (lambda line: None)
    members = {kind: run for kind, run in latest_runs(workspace, say).items() if kind != BLEND}
    inputs = {
        "blend": dataclasses.asdict(config),
        "answers": dataclasses.asdict(answers),
        "runs": members,
        "sequences": workspace.table("sequences").manifest().fingerprint,
        "seed": seed,
    }
    runs, name = Runs(workspace, BLEND), _digest(inputs)
    if runs.is_finished(name):
        say(f"run {name} is finished already")
        runs.point_to(name)
    else:
        started = time.perf_counter()
        evidence, cases = _gathered(workspace, config, answers, members, seed, say)
        weights, report = _fitted(evidence, cases, config, started)
        document = {**inputs, "weights": weights.weights, "by_ranks": _metrics(evidence.ranks_PF, cases)}
        contents = {WEIGHTS: safetensors.torch.save({"weights": torch.tensor(list(weights.weights.values()))})}
        runs.write(name, document, contents, report, latest=True)
    finished, report = runs.open(name), runs.read_report(name)
    return BlendTraining(
        run=name,
        folder=str(finished.folder),
        pages=report.examples,
        seconds=report.seconds,
        weights=finished.config["weights"],
        by_ranks=finished.config["by_ranks"],
        learned=report.metrics,
    )


def fit_blend(evidence: Evidence, liked_PF: npt.NDArray[np.bool_], regularization: float) -> Blend:
    """Fit weights by the conditional logit of liked candidates among all of a page (McFadden 1974).

    `min_w  mean_p mean_{i liked} -log softmax_F(w . z_p)_i + regularization |w|^2`; pages without a liked candidate say
    nothing and are left out.

    Args:
        evidence: Of `P` pages.
        liked_PF: Which candidates were.
        regularization: Not negative.

    Raises:
        ValueError: No page has a liked candidate.
    """
    told = liked_PF.any(axis=1)
    if not told.any():
        raise ValueError(f"expected a page with a liked item among its candidates, got none in {len(liked_PF)} pages")
    z_PFR = evidence.relative_PFR[told].astype(np.float64)
    absent_PF = evidence.items_PF[told] == NO_ITEM
    share_PF = liked_PF[told] / liked_PF[told].sum(axis=1, keepdims=True)
    scale_R = np.maximum(z_PFR[~absent_PF].std(axis=0), 1e-6)
    z_PFR /= scale_R

    def loss(weight_R: Floats) -> tuple[float, Floats]:
        logit_PF = np.where(absent_PF, -np.inf, z_PFR @ weight_R)
        logit_PF -= logit_PF.max(axis=1, keepdims=True)
        odds_PF = np.exp(logit_PF)
        total_P = odds_PF.sum(axis=1)
        mean = np.log(total_P).mean() - (share_PF * np.where(absent_PF, 0.0, logit_PF)).sum() / len(share_PF)
        slope_PF = (odds_PF / total_P[:, None] - share_PF) / len(share_PF)
        slope_R = np.einsum("pf,pfr->r", slope_PF, z_PFR)
        return mean + regularization * (weight_R @ weight_R), slope_R + 2 * regularization * weight_R

    found = minimize(loss, np.zeros(len(scale_R)), jac=True, method="L-BFGS-B").x / scale_R
    return Blend(weights=dict(zip(evidence.sources, found.tolist(), strict=True)))


def _gathered(
    workspace: Workspace,
    config: BlendConfig,
    answers: ReleaseConfig,
    members: Mapping[str, str],
    seed: int,
    say: Callable[[str], None],
) -> tuple[Evidence, EvaluationCases]:
    """Make pages for a sample of the validation split, with items as they were known then."""
    generation = load_genrec(workspace, members[GENREC])[1].generation if GENREC in members else None
    bundle = Bundle.load(workspace, generation)
    catalogue = catalogue_of(bundle, workspace)
    plain = dataclasses.replace(answers, recommend=dataclasses.replace(answers.recommend, fusion="ranks"))
    maker = with_past_items(page_maker(workspace, catalogue, bundle.generation, members, plain), workspace)
    cases = validation_cases(
        workspace, catalogue, pages=config.pages, max_history=_MAX_HISTORY, seed=seed, progress=say
    )
    if cases is None or len(cases) < 2:
        raise ValueError(
            f"expected at least 2 validation pages to fit the fusion on, got {0 if cases is None else len(cases)}; "
            "the split leaves none (batch.split.validation_days), or use recommend.fusion=ranks"
        )
    parts = [_evidence(maker, batch) for batch in cases.batches(_BATCH)]
    say(f"candidates of {len(cases):,} validation pages")
    return Evidence(
        items_PF=np.concatenate([part.items_PF for part in parts]),
        relative_PFR=np.concatenate([part.relative_PFR for part in parts]),
        ranks_PF=np.concatenate([part.ranks_PF for part in parts]),
        sources=parts[0].sources,
    ), cases


def _evidence(maker: Recommender, cases: EvaluationCases) -> Evidence:
    joined = maker.joined(cases.requests, _AT[-1])
    relative_PFR, sources = joined.relative()
    return Evidence(
        items_PF=joined.fused.items_BF,
        relative_PFR=relative_PFR,
        ranks_PF=joined.ordered(None).items_BF,
        sources=sources,
    )


def _fitted(
    evidence: Evidence, cases: EvaluationCases, config: BlendConfig, started: float
) -> tuple[Blend, TrainReport]:
    """Fit on all pages; measure each half with what was fitted on the other."""
    liked_PF = hits(evidence.items_PF, cases.relevant_items, cases.relevant_offsets)
    half_P = cases.users_B % 2
    measured = [
        (part, fit_blend(evidence.take(other), liked_PF[other], config.regularization))
        for part, other in ((np.flatnonzero(half_P == h), np.flatnonzero(half_P != h)) for h in (0, 1))
        if len(part) and liked_PF[other].any()
    ]
    sums: dict[str, float] = {}
    pages = sum(len(part) for part, _ in measured)
    for part, fitted in measured:
        for name, value in _metrics(blended_items(evidence.take(part), fitted), cases.take(part)).items():
            sums[name] = sums.get(name, 0.0) + value * len(part) / pages
    seconds = time.perf_counter() - started
    report = TrainReport(
        steps=1,
        epochs=1.0,
        examples=len(cases),
        seconds=seconds,
        losses=[],
        metrics=sums,
        best_step=None,
        stopped="convergence",
        peak_rss_mb=peak_rss_mb(),
        processes=1,
    )
    return fit_blend(evidence, liked_PF, config.regularization), report


def blended_items(evidence: Evidence, blend: Blend) -> npt.NDArray[np.int64]:
    """Return the candidates of pages in the order of a blend."""
    weight_R = np.array([blend.weights[source] for source in evidence.sources])
    score_PF = np.where(evidence.items_PF == NO_ITEM, -np.inf, evidence.relative_PFR @ weight_R)
    return np.take_along_axis(evidence.items_PF, np.argsort(-score_PF, axis=1, kind="stable"), axis=1)


def _metrics(items_PF: npt.NDArray[np.int64], cases: EvaluationCases) -> dict[str, float]:
    values = ranking_metrics(items_PF, cases.relevant_items, cases.relevant_offsets, ks=_AT)
    return {name: float(values[name].mean()) for name in (metric_key("hr", 10), metric_key("ndcg", 10))}


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
