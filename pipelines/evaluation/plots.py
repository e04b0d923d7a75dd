"""Plots of an evaluation as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.metrics import Interval, metric_key
from pipelines.evaluation.report import EvaluationReport


def evaluation_plots(report: EvaluationReport, ks: Sequence[int]) -> dict[str, bytes]:
    """Return PNG files by name: HR and NDCG against K, and HR per slice, with 95 % intervals."""
    return {"metrics_at_k.png": _png(_curves(report, ks)), "slices.png": _png(_slices(report))}


def _curves(report: EvaluationReport, ks: Sequence[int]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("hr", "ndcg"), strict=True):
        for result in report.results:
            intervals = [result.metrics[metric_key(name, k)] for k in ks]
            means, errors = _errors(intervals)
            axis.errorbar(ks, means, yerr=errors, marker="o", capsize=3, label=result.name)
        axis.set(xscale="log", xlabel="K", ylabel=f"{name.upper()}@K")
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_ylim(bottom=0)
    figure.axes[0].legend()
    figure.suptitle(f"{report.dataset}, {report.split}, {report.cases:,} pages")
    return figure


def _slices(report: EvaluationReport) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axis: Axes = figure.subplots()
    metric = metric_key("hr", report.main_k)
    width = 0.8 / len(report.results)
    for place, result in enumerate(report.results):
        means, errors = _errors([result.slices[name][metric] for name in report.slice_cases])
        axis.bar(np.arange(len(means)) + place * width, means, width, yerr=errors, capsize=2, label=result.name)
    axis.set_xticks(np.arange(len(report.slice_cases)) + 0.4 - width / 2, _labels(report.slice_cases), fontsize="small")
    axis.set(ylabel=f"HR@{report.main_k}", title="by popularity of the target and by length of the history")
    axis.legend()
    return figure


def _errors(intervals: Sequence[Interval]) -> tuple[list[float], list[list[float]]]:
    # Few or very unlike users can put the mean a hair outside its interval, which matplotlib refuses.
    below = [max(0.0, interval.mean - interval.low) for interval in intervals]
    above = [max(0.0, interval.high - interval.mean) for interval in intervals]
    return [interval.mean for interval in intervals], [below, above]


def _labels(slice_cases: Mapping[str, int]) -> list[str]:
    return [f"{name}\n{cases:,}" for name, cases in slice_cases.items()]


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()
