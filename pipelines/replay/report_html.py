"""A replay as one HTML file: no network, no scripts; plots inside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from pipelines.replay import html, plots
from pipelines.replay.checks import weights_kind
from pipelines.replay.diagnostics import DiagnosticsReport
from pipelines.replay.estimates import Estimate
from pipelines.replay.report import SILENT, ReplayReport, estimate_rows, interval, number
from pipelines.replay.slices import SliceReport, SliceResult
from pipelines.replay.verdict import DO_NOT_SHIP, SHIP
from pipelines.replay.weight_sums import EDGES, Kind, WeightReport

_STYLES = {SHIP: "good", DO_NOT_SHIP: "bad"}
_MOST_SLICES = 40
_LIMITS = (0.001, 0.01, 0.1, 0.316, 0.891, 1.122, 3.16, 10.0, 31.6, 100.0, 1000.0)
"""Between the bins of weights that are drawn: some of `EDGES`, and 1 inside a bin of its own."""
_PROMISES = {
    "unbiased": "right on average",
    "consistent": "right in the limit of many pages",
    "bounded": "off by no more than a stated bound",
    "none": "nothing",
}


def report_html(report: ReplayReport) -> str:
    """Return the document."""
    parts = [
        *_head(report),
        *_lift(report),
        *_gates(report),
        *([] if report.diagnostics is None else _of_pages(report, report.diagnostics)),
        *_assumptions(report.estimates),
    ]
    return html.page(f"Replay: {report.title}", parts)


def _of_pages(report: ReplayReport, found: DiagnosticsReport) -> list[str]:
    return [*_left_out(found), *_weights(found), *_sensitivity(report), *_slices(found.slices)]


def _head(report: ReplayReport) -> list[str]:
    asked, verdict = report.question, report.verdict
    rows = [
        ["B, the challenger", asked.challenger.title],
        ["A, the champion", asked.champion.title],
        ["releases", f"{asked.challenger.release or 'none'} against {asked.champion.release or 'none'}"],
        ["logs", asked.logs],
        ["logged by", ", ".join(asked.logged_by) or "unknown"],
        ["window, UTC", asked.window],
        ["reward", f"{asked.reward}, mean per {asked.unit}"],
        ["candidates", asked.candidates],
        ["pages, users", f"{asked.counted:,} of {asked.pages:,} logged, of {asked.users:,} users"],
        ["digest of pages and options", asked.inputs],
        ["made", f"{verdict.compared.time:%Y-%m-%d %H:%M} UTC"],
    ]
    sentences = (
        f"B - A = {number(verdict.difference, signed=True)}, {100 * verdict.confidence:g} % interval "
        f"{interval(verdict.low, verdict.high)}, by {verdict.estimator}.",
        *(f"Because {line}." for line in verdict.because),
        *(f"Missing: {line}." for line in verdict.missing),
    )
    return [
        html.heading("Would B have done better than A on the logged pages?", 1),
        html.verdict_box(report.title, sentences, _STYLES.get(verdict.verdict, "")),
        html.paragraph(f"The rule: {verdict.rule}.", "soft"),
        html.table(["", ""], rows),
        *(html.paragraph(f"Note: {note}.") for note in report.notes),
    ]


def _lift(report: ReplayReport) -> list[str]:
    header, *rows = estimate_rows(report.estimates, report.verdict)
    points = [(one.name, one.difference, one.low, one.high) for one in map(Estimate.widened, report.estimates)]
    marked = [place for place, one in enumerate(report.estimates) if one.name == report.verdict.estimator]
    plot = plots.intervals_plot(points, report.verdict.margin, "difference by estimator", report.verdict.estimator)
    detectable = (
        f"With so many users a true difference of {number(report.detectable)} would be found four times of five. "
        "The interval is linearised over groups of users, the wider of Student's t and its correction for skewness "
        "(Hall), so that its ends may lie unevenly; the bootstrap draws these groups; the always valid one holds "
        "however often somebody looks. 'Worth users' is how many users of equal weight would tell as "
        "much; 'chosen' is the clip or shrinkage of the least estimated mean squared error. Where that costs bias, all "
        "intervals, in table and plot, are widened by the most that it can be, 'bias up to', and so the verdict reads "
        "them; where it is not known, an interval promises nothing. "
        f"'*' decides; '~' {SILENT}."
    )
    return [
        html.heading("Lift"),
        html.table(header, rows, numbers=header[1:], marked=marked),
        html.paragraph(detectable, "soft"),
        html.figure(plot, "Differences with their intervals; the coloured one decides, the dotted line is the margin."),
    ]


def _gates(report: ReplayReport) -> list[str]:
    checks = report.verdict.checks
    rows = [
        ["passed" if one.passed else "FAILED", one.name, number(one.value), number(one.threshold), one.says]
        for one in checks
    ]
    styles = {(row, 0): "good" if one.passed else "bad" for row, one in enumerate(checks)}
    return [
        html.heading("Gates"),
        html.table(["", "gate", "measured", "limit", "in words"], rows, numbers=["measured", "limit"], styles=styles),
    ]


def _left_out(found: DiagnosticsReport) -> list[str]:
    rows = [[reason, f"{count:,}"] for reason, count in sorted(found.bad.items())]
    table = html.table(["pages that are no evidence", "pages"], rows, numbers=["pages"])
    return [table] if rows else []


def _weights(found: DiagnosticsReport) -> list[str]:
    kinds: tuple[Kind, ...] = (
        ("page", "position") if len(found.weight("champion", "position").mean_P) > 1 else ("page",)
    )
    header = [
        "weights",
        "of",
        "worth pages",
        "worth users",
        "largest",
        "its share",
        "ten largest",
        "heaviest user",
        "p99",
        "never",
    ]
    rows = [
        [
            one.kind,
            one.policy,
            number(one.effective_pages),
            number(one.effective_users),
            number(one.largest),
            f"{one.page_share:.2%}",
            f"{one.top_share:.2%}",
            f"{one.user_share:.2%}",
            number(one.p99),
            f"{one.zero_share:.1%}",
        ]
        for one in found.weights
    ]
    titles = {"page": "weights of whole pages", "position": "weights of slots"}
    figures = [
        html.figure(
            plots.weights_plot(
                _BIN_NAMES,
                binned(found.weight("champion", kind)),
                binned(found.weight("challenger", kind)),
                titles[kind],
            ),
            f"{titles[kind].capitalize()}: 1 is what the logs did; what lies far to the right stands for many others.",
        )
        for kind in kinds
    ]
    shares = ", ".join(f"{policy} {share:.2%}" for policy, share in found.outside.items())
    tests = "; ".join(
        f"by {name} chi-square {test.statistic:.1f} at {test.df:.1f} degrees of freedom, p = {test.p:.3f}"
        for name, test in found.calibration.items()
    )
    calibration = plots.calibration_plot(
        slot_means(found.weight("champion", kinds[-1])), slot_means(found.weight("challenger", kinds[-1]))
    )
    return [
        html.heading("Weights and propensities"),
        html.table(header, rows, numbers=header[2:]),
        html.paragraph(f"Probability on what the logs could not have shown: {shares}.", "soft"),
        *figures,
        html.figure(
            calibration, "Mean weight of each slot with its 95 % interval: away from 1, propensities are wrong."
        ),
        *([html.paragraph(f"Logged propensities against what was shown: {tests}.", "soft")] if tests else []),
    ]


def _sensitivity(report: ReplayReport) -> list[str]:
    kind = weights_kind(report.verdict.estimator)
    shown = [one for one in report.estimates if one.path and weights_kind(one.name) == kind]
    figures = []
    for one in shown:
        points = [(at, value, value - 1.96 * se, value + 1.96 * se) for at, value, se in one.path if math.isfinite(se)]
        if points:
            title = f"{one.name}: chosen {number(one.parameter)}"
            svg = plots.curve_plot(points, title, "largest weight, from none to 1: less variance, more bias")
            figures.append(html.figure(svg, f"{title}. A difference that hangs on the clip is not to be trusted."))
    return [html.heading("Sensitivity to clipping"), *figures] if figures else []


def _slices(found: SliceReport) -> list[str]:
    shown = sorted(found.slices, key=lambda one: one.adjusted_p)[:_MOST_SLICES]
    if not shown:
        return []
    rows = [
        [
            one.name,
            f"{one.shown:,}",
            number(one.difference, signed=True),
            interval(one.low, one.high),
            f"{one.adjusted_p:.3f}",
            "real" if one.real else "",
        ]
        for one in shown
    ]
    header = ["slice", "items", "B - A", "interval", "adjusted p", ""]
    parts = [html.heading("Slices"), html.table(header, rows, numbers=header[1:5])]
    if points := _finite(shown):
        svg = plots.intervals_plot(points, 0.0, "difference by slice")
        parts.append(html.figure(svg, "Differences by slice with their intervals, not adjusted for their number."))
    parts += [html.paragraph(f"Every slice of {group} goes against the total.") for group in found.reversed_groups]
    return parts


def _assumptions(estimates: Sequence[Estimate]) -> list[str]:
    rows = [
        [one.name, _PROMISES[one.promise], one.assumption, "-" if one.bias_bound is None else number(one.bias_bound)]
        for one in estimates
    ]
    return [
        html.heading("What each estimator assumes"),
        html.table(["estimator", "promises to be", "if", "largest bias"], rows, numbers=["largest bias"]),
    ]


def binned(weights: WeightReport) -> np.ndarray:
    """Return the numbers of weights in the bins that are drawn."""
    middles = np.concatenate([[0.0], np.sqrt(EDGES[1:] * EDGES[:-1]), [math.inf]])
    bins = np.searchsorted(_LIMITS, middles, side="right")
    return np.bincount(bins, weights=weights.histogram, minlength=len(_LIMITS) + 1).astype(np.int64)


def slot_means(weights: WeightReport) -> list[tuple[float, float]]:
    """Return mean weight and its standard error of each slot; an exact mean has none."""
    return [
        (mean, abs(mean - 1) / abs(z) if z and math.isfinite(z) else 0.0)
        for mean, z in zip(weights.mean_P, weights.z_P, strict=True)
    ]


def _finite(slices: Sequence[SliceResult]) -> list[plots.Point]:
    points = [(one.name, one.difference, one.low, one.high) for one in slices]
    return [point for point in points if np.isfinite(point[1:]).all()]


_BIN_NAMES = tuple(
    [f"< {_LIMITS[0]:g}"]
    + [f"{low:.3g} - {high:.3g}" for low, high in itertools.pairwise(_LIMITS)]
    + [f"> {_LIMITS[-1]:g}"]
)
