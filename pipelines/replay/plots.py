"""Plots of a replay as SVG: no scripts, no fonts from outside, the same bytes for the same figures."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

CHAMPION_COLOUR, CHALLENGER_COLOUR, OTHER_COLOUR = "#0072b2", "#d55e00", "#666666"
_ROW_INCHES = 0.32
_WIDTH = 7.5
_Z95 = 1.959963984540054

Point = tuple[str, float, float, float]
"""A name, a value, the lower and the upper end of its interval."""
Mean = tuple[float, float]
"""A mean and its standard error."""


def intervals_plot(points: Sequence[Point], margin: float, title: str, marked: str | None = None) -> bytes:
    """Return differences with their intervals, one below the other, the first on top.

    Args:
        points: What to show; without a finite interval only the name remains.
        margin: What a difference must exceed.
        title: Of the plot.
        marked: Name of the point that decides.
    """
    figure = Figure(figsize=(_WIDTH, 1.0 + _ROW_INCHES * len(points)), layout="constrained")
    axis: Axes = figure.subplots()
    for row, (name, value, low, high) in enumerate(points):
        if np.isfinite([value, low, high]).all():
            colour = CHALLENGER_COLOUR if name == marked else OTHER_COLOUR
            axis.plot([low, high], [row, row], color=colour, linewidth=3 if name == marked else 1.5)
            axis.plot([value], [row], "o", color=colour)
    axis.axvline(0.0, color="#222222", linewidth=1)
    if margin:
        axis.axvline(margin, color="#222222", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(points)), [name for name, *_ in points])
    axis.set_ylim(len(points) - 0.5, -0.5)
    axis.set(xlabel="challenger - champion, in units of the reward", title=title)
    axis.grid(axis="x", alpha=0.3)
    return _svg(figure)


def weights_plot(
    names: Sequence[str], champion: npt.NDArray[np.int64], challenger: npt.NDArray[np.int64], title: str
) -> bytes:
    """Return how the weights of both policies are spread.

    Args:
        names: Of the `B` bins.
        champion: Numbers of weights in each bin, `[B]`.
        challenger: The same.
        title: Of the plot.
    """
    figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
    axis: Axes = figure.subplots()
    for place, (counts, colour, name) in enumerate(
        ((champion, CHAMPION_COLOUR, "champion (A)"), (challenger, CHALLENGER_COLOUR, "challenger (B)"))
    ):
        shares = counts / max(int(counts.sum()), 1)
        axis.bar(np.arange(len(shares)) + 0.4 * place, shares, 0.4, color=colour, label=name, align="edge")
    axis.set_xticks(np.arange(len(names)) + 0.4, names, rotation=45, fontsize="small")
    axis.set(xlabel="how many times likelier the policy does what was logged", ylabel="share", title=title)
    axis.legend()
    return _svg(figure)


def curve_plot(points: Sequence[tuple[float, float, float, float]], title: str, xlabel: str) -> bytes:
    """Return a difference with its interval against something that was varied.

    Args:
        points: What was set, the difference, the lower and the upper end of its interval; rising.
        title: Of the plot.
        xlabel: What was set.
    """
    figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
    axis: Axes = figure.subplots()
    places, values, lows, highs = (np.array(column) for column in zip(*points, strict=True))
    at = np.arange(len(places))
    axis.fill_between(at, lows, highs, color=CHALLENGER_COLOUR, alpha=0.2)
    axis.plot(at, values, "o-", color=CHALLENGER_COLOUR)
    axis.axhline(0.0, color="#222222", linewidth=1)
    axis.set_xticks(at, ["none" if np.isinf(place) else f"{place:.3g}" for place in places])
    axis.set(xlabel=xlabel, ylabel="challenger - champion", title=title)
    axis.grid(alpha=0.3)
    return _svg(figure)


def calibration_plot(champion: Sequence[Mean], challenger: Sequence[Mean]) -> bytes:
    """Return the mean weight of each slot with its 95 % interval: 1 where the logged propensities are right.

    Args:
        champion: Mean and standard error by slot.
        challenger: The same.
    """
    figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
    axis: Axes = figure.subplots()
    for shift, means, colour, name in (
        (-0.1, champion, CHAMPION_COLOUR, "champion (A)"),
        (0.1, challenger, CHALLENGER_COLOUR, "challenger (B)"),
    ):
        values, errors = (np.array(column) for column in zip(*means, strict=True))
        at = np.arange(1, len(means) + 1) + shift
        axis.errorbar(at, values, yerr=_Z95 * errors, fmt="o", capsize=3, color=colour, label=name)
    axis.axhline(1.0, color="#222222", linewidth=1)
    axis.set_xticks(range(1, len(champion) + 1))
    axis.set(xlabel="slot of the page", ylabel="mean weight", title="propensities: the mean weight should be 1")
    axis.grid(alpha=0.3)
    axis.legend()
    return _svg(figure)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # the salt and the missing date make the same figure the same bytes
    with mpl.rc_context({"svg.hashsalt": "pagewise", "svg.fonttype": "path"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()
