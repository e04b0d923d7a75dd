"""The results of an evaluation: for the terminal, as JSON and for MLflow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from models.metrics import Interval, metric_key


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrieverResult:
    """What one retriever reached."""

    name: str
    metrics: Mapping[str, Interval]
    """`hr_at_10` and so on: mean over cases."""
    differences: Mapping[str, Mapping[str, Interval]]
    """Baseline -> metric -> this retriever minus the baseline on the same cases."""
    slices: Mapping[str, Mapping[str, Interval]]
    """Slice -> metric -> mean over the slice's cases."""
    catalogue_metrics: Mapping[str, float]
    """`coverage_at_10` (share of the catalogue), `novelty_at_10` (bits)."""
    hallucination_rate: float | None
    """Share of unconstrained answers that are no item; None for retrievers that cannot invent one."""
    seconds: float
    """Time spent in `retrieve`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplePage:
    """One case with titles; whose it was, the tables know as long as they do."""

    page_id: str
    history: tuple[str, ...]
    """Oldest first."""
    relevant: tuple[str, ...]
    recommended: Mapping[str, tuple[str, ...]]
    """Retriever -> titles, best first; a hit begins with `* `."""

    def lines(self) -> list[str]:
        """Return the page as lines for a terminal."""
        lines = [f"page {self.page_id}"]
        lines += [f"  had    {title}" for title in self.history] or ["  had    nothing yet"]
        lines += [f"  liked  {title}" for title in self.relevant]
        for name, titles in self.recommended.items():
            lines += [f"  {name} {rank:2d}. {title}" for rank, title in enumerate(titles, start=1)]
        return lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """All retrievers on the same cases."""

    dataset: str
    split: str
    exclude_seen: bool
    order_only: bool
    cases: int
    users: int
    catalogue_items: int
    catalogue_fingerprint: str
    left_out: Mapping[str, int]
    """Pages and items of the whole split that are no case and no target, by reason."""
    slice_cases: Mapping[str, int]
    main_k: int
    seed: int
    resamples: int
    results: tuple[RetrieverResult, ...]
    samples: tuple[SamplePage, ...]
    artifacts: tuple[Path, ...] = ()
    """Files written, for MLflow."""

    def result(self, name: str) -> RetrieverResult:
        """Return one retriever's result."""
        for result in self.results:
            if result.name == name:
                return result
        raise ValueError(f"expected one of {', '.join(result.name for result in self.results)}, got {name!r}")

    def to_json(self) -> str:
        """Serialise everything but the paths, keys sorted."""
        document = dataclasses.asdict(self)
        del document["artifacts"]
        return json.dumps(document, indent=2, sort_keys=True)

    def tracked_metrics(self) -> dict[str, float]:
        """Return `<retriever>/<metric>` -> mean, the names MLflow shows."""
        tracked: dict[str, float] = {}
        for result in self.results:
            values = {name: interval.mean for name, interval in result.metrics.items()} | dict(result.catalogue_metrics)
            if result.hallucination_rate is not None:
                values["hallucination_rate"] = result.hallucination_rate
            tracked |= {f"{result.name}/{name}": value for name, value in values.items()}
        return tracked

    def lines(self) -> list[str]:
        """Return tables for a terminal: the main metrics, paired differences, slices; the rest is in the JSON."""
        return [*self._heading(), *self._metric_table(), *self._difference_lines(), *self._slice_table(), *self._ends()]

    def _heading(self) -> list[str]:
        order = ", times are only an order" if self.order_only else ""
        seen = "seen items excluded" if self.exclude_seen else "seen items not excluded"
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
        return [
            f"evaluation of {self.dataset}, {self.split} split{order}: {self.cases:,} pages of {self.users:,} users, "
            f"ranking all {self.catalogue_items:,} items, {seen}",
            f"  left out of the split: {left_out or 'nothing'}; 95 % intervals, {self.resamples} resamples of users",
        ]

    def _metric_table(self) -> list[str]:
        rows: list[list[str]] = [["", *(result.name for result in self.results)]]
        rows += [
            [metric, *(_interval(result.metrics[metric]) for result in self.results)]
            for metric in self.results[0].metrics
            if metric.startswith(("hr_", "ndcg_")) or metric.endswith(f"_at_{self.main_k}")
        ]
        for metric in (metric_key("coverage", self.main_k), metric_key("novelty", self.main_k)):
            rows.append([metric, *(_number(result.catalogue_metrics.get(metric)) for result in self.results)])
        rows.append(["hallucination_rate", *(_number(result.hallucination_rate) for result in self.results)])
        rows.append(["seconds", *(f"{result.seconds:.1f}" for result in self.results)])
        return _table(rows)

    def _difference_lines(self) -> list[str]:
        metrics = [metric_key(name, self.main_k) for name in ("hr", "ndcg")]
        lines: dict[frozenset[str], str] = {}  # of two baselines, one direction
        for result in self.results:
            for baseline, of_baseline in result.differences.items():
                described = ", ".join(f"{metric} {_interval(of_baseline[metric], signed=True)}" for metric in metrics)
                lines.setdefault(frozenset((result.name, baseline)), f"  {result.name} - {baseline}: {described}")
        return list(lines.values())

    def _slice_table(self) -> list[str]:
        metric = metric_key("hr", self.main_k)
        rows: list[list[str]] = [[f"slice ({metric})", "pages", *(result.name for result in self.results)]]
        for name, cases in self.slice_cases.items():
            rows.append([name, f"{cases:,}", *(_interval(result.slices[name][metric]) for result in self.results)])
        return _table(rows)

    def _ends(self) -> list[str]:
        return [f"  wrote {path}" for path in self.artifacts]


def _interval(interval: Interval, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{interval.mean:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def written(report: EvaluationReport, folder: Path, files: Mapping[str, bytes]) -> EvaluationReport:
    """Write `report.json` and the given files (name -> bytes) into `folder`; return the report with their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = "\n\n".join("\n".join(sample.lines()) for sample in report.samples)
    contents = {"report.json": report.to_json().encode(), "samples.txt": samples.encode(), **files}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return dataclasses.replace(report, artifacts=tuple(folder / name for name in contents))
