"""The paper's ablations of GenRec: page-wise or point-wise, merged or not, aligned how; every row on the same pages.

Legend: `B` cases, `S` seeds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.alignment.config import AlignConfig
from models.genrec.batch import pack_prompts
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.model import GenRec
from models.metrics import Interval, metric_key, paired_bootstrap, ranking_metrics
from models.ranker.config import RankerConfig
from models.recommend.interface import RequestBatch
from models.recommend.requests import EvaluationCases
from models.training.alignment import align_genrec
from models.training.config import TrainConfig
from models.training.genrec import train_genrec
from pipelines.simulator.oracle import ORACLE_FILE, Oracle
from pipelines.simulator.truth import PAGE_ITEMS, expected_rewards
from pipelines.studies.cases import study_cases, study_retriever
from pipelines.studies.config import GenRecStudyConfig
from pipelines.studies.variants import ALIGNED, TRAINED

Floats = npt.NDArray[np.float64]
KS = (1, 10, 50)
METRICS = (metric_key("hr", 1), metric_key("hr", 10), metric_key("ndcg", 10), metric_key("hr", 50))
CLICKS, PURCHASES = "true_clicks", "true_purchases"
HALLUCINATION_CASES = 512
RESAMPLES = 1000
_COLUMNS = {
    **dict(zip(METRICS, ("HR@1", "HR@10", "NDCG@10", "HR@50"), strict=True)),
    CLICKS: "clicks",
    PURCHASES: "purchases",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One variant, over all seeds."""

    variant: str
    metrics: Mapping[str, float]
    """Means over cases and seeds; in a simulated marketplace also the true worth of a page of ten."""
    differences: Mapping[str, Interval]
    """To the first variant on the same cases, seeds averaged first; the interval resamples users, not seeds."""
    hallucination: float
    """Share of invalid IDs among the ten best of an unconstrained search."""
    prompt_places: float
    """Mean length of a prompt."""
    seconds: float
    """Of this variant's own training steps; an alignment's come on top of its supervised run's."""
    steps: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenRecStudyReport:
    """What the study found."""

    dataset: str
    split: str
    cases: int
    seeds: int
    rows: tuple[Row, ...]

    def lines(self) -> list[str]:
        """Return the table for a terminal."""
        names = [name for name in _COLUMNS if name in self.rows[0].metrics]
        header = " ".join(f"{_COLUMNS[name]:>9}" for name in names)
        lines = [
            f"{self.dataset}, {self.split} split, {self.cases:,} cases, {self.seeds} seeds; intervals resample users",
            f"{'variant':<18} {header} {'invalid':>8} {'prompt':>7} {'steps':>7} {'seconds':>8}",
        ]
        for row in self.rows:
            values = " ".join(f"{row.metrics[name]:>9.4f}" for name in names)
            lines.append(
                f"{row.variant:<18} {values} {row.hallucination:>8.2%} {row.prompt_places:>7.1f} {row.steps:>7,.0f} "
                f"{row.seconds:>8.1f}"
            )
        for row in self.rows[1:]:
            found = ", ".join(
                f"{_COLUMNS[name]} {interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
                for name, interval in row.differences.items()
            )
            lines.append(f"{row.variant} - {self.rows[0].variant}: {found}")
        return lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What the variants are variants of."""

    genrec: GenRecConfig
    train: TrainConfig
    align: AlignConfig
    ranker: RankerConfig
    ranker_train: TrainConfig
    decode: DecodeConfig


@dataclasses.dataclass(frozen=True)
class _Measured:
    """One run on the cases: metric -> `[B]` values, and what belongs to the run as a whole."""

    values: Mapping[str, Floats]
    hallucination: float
    prompt_places: float
    seconds: float
    steps: int


def genrec_study(
    workspace: Workspace,
    config: GenRecStudyConfig,
    settings: StudySettings,
    *,
    seeds: Sequence[int],
    folder: Path,
    progress: Callable[[str], None] | None = None,
) -> GenRecStudyReport:
    """Train and measure every variant; finished runs of an interrupted study are found again, none becomes the latest.

    Args:
        workspace: Holds `sequences`, semantic IDs and, for alignments, what a ranker is trained on.
        config: Variants, split.
        settings: What they are variants of.
        seeds: At least one.
        folder: Where `report.json` goes.
        progress: Told of each run.

    Raises:
        FileNotFoundError: A table or the semantic IDs are missing.
    """
    say = progress or (lambda line: None)
    cases = study_cases(
        workspace,
        config.split,
        max_history=settings.genrec.max_history,
        most=config.max_cases,
        seed=config.sample_seed,
    )
    measured: dict[str, list[_Measured]] = {variant: [] for variant in config.variants}
    for seed in seeds:
        for variant in config.variants:
            run, seconds, steps = _run(workspace, settings, variant, seed)
            found = _measure(workspace, run, cases, settings.decode)
            measured[variant].append(dataclasses.replace(found, seconds=seconds, steps=steps))
            said = ", ".join(f"{name} {found.values[name].mean():.4f}" for name in METRICS)
            say(f"seed {seed}, {variant}: {said}; {seconds:.0f} s")
    report = GenRecStudyReport(
        dataset=cases.dataset,
        split=config.split,
        cases=len(cases),
        seeds=len(seeds),
        rows=tuple(_rows(measured, cases, config)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    document = {**dataclasses.asdict(report), "settings": dataclasses.asdict(settings), "seeds": list(seeds)}
    (folder / "report.json").write_text(json.dumps(document, indent=2))
    return report


def _run(workspace: Workspace, settings: StudySettings, variant: str, seed: int) -> tuple[str, float, int]:
    """Train a variant, or find it; return its run, seconds and steps."""
    options: dict[str, Any] = {"seed": seed, "track": False, "latest": False}
    changed = dataclasses.replace(settings.genrec, **TRAINED.get(variant, {}))
    training = train_genrec(workspace, changed, settings.train, **options)
    if variant in TRAINED:
        return training.run, training.train.seconds, training.train.steps
    align = dataclasses.replace(settings.align, **ALIGNED[variant])
    aligned = align_genrec(
        workspace,
        align,
        settings.ranker,
        settings.ranker_train,
        decode=settings.decode,
        supervised=training.run,
        **options,
    )
    return aligned.run, aligned.train.seconds, aligned.train.steps


def _measure(workspace: Workspace, run: str, cases: EvaluationCases, decode: DecodeConfig) -> _Measured:
    retriever = study_retriever(workspace, run, decode)
    catalogue = retriever.catalogue
    batches = [retriever.retrieve(batch.requests, KS[-1]).items_BK for batch in cases.batches(decode.batch_size)]
    items_BK = np.concatenate(batches)
    ranked = ranking_metrics(items_BK, cases.relevant_items, cases.relevant_offsets, ks=KS)
    values = {name: ranked[name] for name in METRICS}
    secret = workspace.local_path(*ORACLE_FILE)
    if secret.exists():
        oracle, pages = Oracle.load(secret), items_BK[:, :PAGE_ITEMS]
        values[CLICKS] = expected_rewards(oracle, catalogue, cases.requests, pages, "click")
        values[PURCHASES] = expected_rewards(oracle, catalogue, cases.requests, pages, "purchase")
    sample = cases.take(np.arange(min(len(cases), HALLUCINATION_CASES))).requests
    return _Measured(
        values=values,
        hallucination=retriever.hallucination_rate(sample),
        prompt_places=_prompt_places(retriever.model, catalogue, sample),
        seconds=0.0,
        steps=0,
    )


def _prompt_places(model: GenRec, catalogue: Catalogue, requests: RequestBatch) -> float:
    users_BU = np.zeros((len(requests), model.config.user_prefix), dtype=np.float32)
    return pack_prompts(requests, catalogue, model.config, users_BU).tokens / len(requests)


def _rows(measured: Mapping[str, list[_Measured]], cases: EvaluationCases, config: GenRecStudyConfig) -> Sequence[Row]:
    first = config.variants[0]
    averaged = {
        variant: {name: np.mean([run.values[name] for run in runs], axis=0) for name in runs[0].values}
        for variant, runs in measured.items()
    }
    return [
        Row(
            variant=variant,
            metrics={name: float(values.mean()) for name, values in averaged[variant].items()},
            differences={
                name: paired_bootstrap(values, averaged[first][name], cases.users_B, RESAMPLES, config.sample_seed)
                for name, values in averaged[variant].items()
            },
            hallucination=float(np.mean([run.hallucination for run in runs])),
            prompt_places=float(np.mean([run.prompt_places for run in runs])),
            seconds=float(np.mean([run.seconds for run in runs])),
            steps=float(np.mean([run.steps for run in runs])),
        )
        for variant, runs in measured.items()
    ]
