"""Plots of a health report as PNG."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.tokenizer.report import code_usage


def health_plots(codes_NL: npt.NDArray[np.int32], codes: int) -> dict[str, bytes]:
    """Return PNG files by name: items per code at each level, and how many IDs have 1, 2, 3, ... items."""
    return {"code_usage.png": _png(_usage(codes_NL, codes)), "items_per_id.png": _png(_sharing(codes_NL))}


def _usage(codes_NL: npt.NDArray[np.int32], codes: int) -> Figure:
    usage_LC = code_usage(codes_NL, codes)
    figure = Figure(figsize=(4 * len(usage_LC), 3), layout="constrained")
    axes = figure.subplots(1, len(usage_LC), sharey=True, squeeze=False)[0]
    for level, (axis, usage_C) in enumerate(zip(axes, usage_LC, strict=True)):
        axis.bar(np.arange(codes), np.sort(usage_C)[::-1], width=1.0)
        axis.set(title=f"level {level}", xlabel="code, most used first")
    axes[0].set_ylabel("items")
    return figure


def _sharing(codes_NL: npt.NDArray[np.int32]) -> Figure:
    _, sizes_S = np.unique(codes_NL, axis=0, return_counts=True)
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    axis.bar(np.arange(1, sizes_S.max() + 1), np.bincount(sizes_S)[1:])
    axis.set(xlabel="items behind one semantic ID", ylabel="semantic IDs", yscale="log")
    return figure


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()
