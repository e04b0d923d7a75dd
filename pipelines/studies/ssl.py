"""Does self-supervision help the two-tower? Plain against self-supervised, over seeds and shares of the data.

Legend: `S` seeds, `N` items, `D` width of a vector.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from features.workspace import Workspace
from models.metrics import ranking_metrics
from models.recommend.catalogue import plain_catalogue
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.recommend.retrievers import popularity_of
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.recommend.vector_index_config import IndexConfig
from models.training.config import TrainConfig
from models.training.two_tower import load_two_tower, train_two_tower
from models.two_tower.config import TwoTowerConfig
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.slices import slices_of
from pipelines.studies.config import SslStudyConfig

PLAIN, SSL = "plain", "ssl"
KS = (10, 50)
METRICS = ("hr_at_10", "ndcg_at_10", "hr_at_50", "ndcg_at_50")
SLICES = ("all", "head", "tail")
CONFIDENCE = 0.95

Measured = Mapping[str, float]
"""`<slice>.<metric>` -> mean over the cases of the slice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric on one slice for one share of the data: means over seeds with Student intervals."""

    fraction: float
    slice: str
    metric: str
    plain: tuple[float, float]
    """Mean and half-width."""
    ssl: tuple[float, float]
    difference: tuple[float, float]
    """Of the runs of one seed: ssl - plain."""

    @property
    def relative(self) -> float:
        """The difference as a share of the plain mean."""
        return self.difference[0] / self.plain[0] if self.plain[0] else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SslStudyReport:
    """What the study found."""

    dataset: str
    split: str
    cases: int
    seeds: int
    comparisons: tuple[Comparison, ...]

    def lines(self) -> list[str]:
        """Return a table for a terminal."""
        title = f"{self.dataset}, {self.split} split, {self.cases:,} cases, {self.seeds} seeds, mean +- 95 % interval"
        header = (
            f"{'data':>5} {'slice':<5} {'metric':<11} {'plain':>15} {'ssl':>15} {'ssl - plain':>17} {'relative':>9}"
        )
        return [title, header, *(_line(row) for row in self.comparisons)]


def _line(row: Comparison) -> str:
    plain, ssl, difference = (
        f"{mean:{sign}.4f}+-{half:.4f}"
        for sign, (mean, half) in (("", row.plain), ("", row.ssl), ("+", row.difference))
    )
    return (
        f"{row.fraction:>5.0%} {row.slice:<5} {row.metric:<11} {plain:>15} {ssl:>15} {difference:>17} "
        f"{row.relative:>+9.1%}"
    )


def ssl_study(
    workspace: Workspace,
    config: SslStudyConfig,
    two_tower: TwoTowerConfig,
    train: TrainConfig,
    *,
    seeds: Sequence[int],
    folder: Path,
    progress: Callable[[str], None] | None = None,
) -> SslStudyReport:
    """Train and measure every run; finished runs of an interrupted study are found again, and none becomes the latest.

    Args:
        workspace: Holds `sequences`, `clean_items` and what the two-tower trains on.
        config: Shares, split.
        two_tower: The self-supervised variant; the plain one is the same with `ssl_weight = 0`.
        train: The training loop of both.
        seeds: At least two: an interval needs them.
        folder: Where `report.json` goes.
        progress: Told of each run.

    Raises:
        ValueError: The configuration has no self-supervision to compare.
    """
    if two_tower.ssl_weight <= 0:
        raise ValueError(
            f"two_tower.ssl_weight: expected more than 0, the study compares it with 0, got {two_tower.ssl_weight}"
        )
    say = progress or (lambda line: None)
    item_ids = sorted(workspace.table("clean_items").read(["item_id"])["item_id"].to_pylist())
    cases = requests_from_sequences(
        workspace, plain_catalogue(item_ids), config.split, max_history=two_tower.max_history
    )
    variants = {PLAIN: dataclasses.replace(two_tower, ssl_weight=0.0), SSL: two_tower}
    measured: dict[tuple[float, str], list[Measured]] = {}
    for fraction in config.fractions:
        for seed in seeds:
            for name, variant in variants.items():
                chosen = dataclasses.replace(variant, train_fraction=fraction)
                training = train_two_tower(workspace, chosen, train, seed=seed, track=False, latest=False)
                found = _measure(workspace, training.run, cases, item_ids)
                measured.setdefault((fraction, name), []).append(found)
                say(f"{fraction:.0%} of the data, seed {seed}, {name}: " + _said(found))
    report = SslStudyReport(
        dataset=cases.dataset,
        split=config.split,
        cases=len(cases),
        seeds=len(seeds),
        comparisons=tuple(_comparisons(measured, config.fractions)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    runs = [{"fraction": key[0], "variant": key[1], "seeds": list(map(dict, rows))} for key, rows in measured.items()]
    (folder / "report.json").write_text(json.dumps({**dataclasses.asdict(report), "runs": runs}, indent=2))
    return report


def _measure(workspace: Workspace, run: str, cases: EvaluationCases, item_ids: list[str]) -> Measured:
    """Rank the whole catalogue, exactly, for every case."""
    model, _ = load_two_tower(workspace, run)
    catalogue = plain_catalogue(item_ids)
    vectors_ND = model.known_item_vectors()
    retriever = TwoTowerRetriever.build(model, vectors_ND, model.item_ids, catalogue, IndexConfig())
    ranked = np.concatenate([retriever.retrieve(batch.requests, KS[-1]).items_BK for batch in cases.batches(1024)])
    popularity_N = popularity_of(workspace.table("item_statistics").read(["item_id", "popularity"]), catalogue)
    found = _means(SLICES[0], ranked, cases.relevant_items, cases.relevant_offsets)
    for part in slices_of(cases, popularity_N, EvaluateConfig().head_share):
        if part.name in SLICES:
            found |= _means(part.name, ranked[part.rows], part.relevant_items, part.relevant_offsets)
    return found


def _means(
    name: str, ranked_BK: npt.NDArray[np.int64], relevant: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> dict[str, float]:
    values = ranking_metrics(ranked_BK, relevant, offsets, ks=KS)
    return {f"{name}.{metric}": float(values[metric].mean()) for metric in METRICS}


def _said(found: Measured) -> str:
    return ", ".join(f"{name} {found[name]:.4f}" for name in ("all.hr_at_50", "all.ndcg_at_10", "tail.hr_at_50"))


def _comparisons(
    measured: Mapping[tuple[float, str], list[Measured]], fractions: tuple[float, ...]
) -> list[Comparison]:
    rows = []
    for fraction in fractions:
        plain, ssl = measured[fraction, PLAIN], measured[fraction, SSL]
        for name in sorted(plain[0], key=lambda name: SLICES.index(name.split(".")[0])):
            plain_S = np.array([run[name] for run in plain])
            ssl_S = np.array([run[name] for run in ssl])
            part, metric = name.split(".")
            rows.append(
                Comparison(
                    fraction=fraction,
                    slice=part,
                    metric=metric,
                    plain=interval(plain_S),
                    ssl=interval(ssl_S),
                    difference=interval(ssl_S - plain_S),
                )
            )
    return rows


def interval(values_S: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of some runs and the half-width of its 95 % Student interval.

    Example:
        >>> [round(part, 3) for part in interval(np.array([1.0, 2.0, 3.0]))]
        [2.0, 2.484]
    """
    spread = values_S.std(ddof=1) / np.sqrt(len(values_S))
    return float(values_S.mean()), float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values_S) - 1) * spread)
