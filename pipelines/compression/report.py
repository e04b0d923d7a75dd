"""The results of a comparison: a table for the terminal, JSON, CSV and a plot."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from models.compression.config import COLLISIONLESS, METHODS, PER_FEATURE
from models.metrics import Interval

METRICS = ("auc", "log_loss", "calibration_ratio", "calibration_error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """One trained model, measured on the test part."""

    method: str
    share: float | None
    """Of the collisionless table's bytes that the table may have; None: a size of its own."""
    seed: int | None
    """None: nothing is drawn."""
    bytes: int
    """Of the table, exactly."""
    auc: float
    log_loss: float
    """Nats per example."""
    calibration_ratio: float
    """Predicted over observed positives."""
    calibration_error: float
    """Expected calibration error over 20 bins of equally many examples."""
    validation_log_loss: float
    """By which the epoch (or a baseline's setting) was chosen."""
    epochs: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonReport:
    """All methods at all sizes on the same examples."""

    dataset: str
    examples: Mapping[str, int]
    """By part: train, validation, test."""
    positives: Mapping[str, int]
    vocabularies: Mapping[str, int]
    """Field -> distinct values in the training part."""
    collisionless_bytes: int
    seeds: tuple[int, ...]
    runs: tuple[RunResult, ...]
    folder: Path

    def cells(self) -> list[tuple[str, float | None]]:
        """Return the pairs of method and share that were run, in order."""
        return list(dict.fromkeys((run.method, run.share) for run in self.runs))

    def values(self, method: str, share: float | None, metric: str) -> list[float]:
        """Return a metric of one cell, a value per seed."""
        return [getattr(run, metric) for run in self.runs if (run.method, run.share) == (method, share)]

    def interval(self, method: str, share: float | None, metric: str) -> Interval:
        """Return the mean over seeds with its 95 % interval (Student's t)."""
        return seed_interval(self.values(method, share, metric))

    def difference(self, method: str, share: float, metric: str = "auc", against: str = PER_FEATURE) -> Interval:
        """Return the mean paired difference of two methods at equal bytes, same seeds, with its 95 % interval."""
        pairs = zip(self.values(method, share, metric), self.values(against, share, metric), strict=True)
        return seed_interval([one - other for one, other in pairs])

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        counts = ", ".join(f"{count:,} {part}" for part, count in self.examples.items())
        fields = ", ".join(f"{name} {count:,}" for name, count in self.vocabularies.items())
        header = f"{'method':<20}{'share':>6}{'bytes':>11}  {'AUC, 95 % interval':<24}" + "".join(
            f"{name:>12}" for name in ("log loss", "calibration", "ECE")
        )
        lines = [
            f"{self.dataset}: {counts}; seeds {', '.join(map(str, self.seeds))}",
            f"values: {fields}; a row per value: {self.collisionless_bytes:,} bytes",
            header,
            *(self._line(method, share) for method, share in self.cells()),
        ]
        return [*lines, *self._difference_lines(), f"table, JSON, CSV and plot: {self.folder}"]

    def _line(self, method: str, share: float | None) -> str:
        size = next(run.bytes for run in self.runs if (run.method, run.share) == (method, share))
        auc = self.interval(method, share, "auc")
        spread = f"{auc.mean:.4f} [{auc.low:.4f}, {auc.high:.4f}]" if auc.low < auc.high else f"{auc.mean:.4f}"
        means = (f"{self.interval(method, share, metric).mean:>12.4f}" for metric in METRICS[1:])
        return f"{method:<20}{fraction(share):>6}{size:>11,}  {spread:<24}" + "".join(means)

    def _difference_lines(self) -> list[str]:
        lines = []
        for method, share in self.cells():
            if share is None or method == PER_FEATURE or (PER_FEATURE, share) not in self.cells():
                continue
            gain = self.difference(method, share)
            lines.append(
                f"AUC of {method} minus {PER_FEATURE} at {fraction(share)}: {gain.mean:+.4f} "
                f"[{gain.low:+.4f}, {gain.high:+.4f}]"
            )
        return lines

    def write(self) -> None:
        """Write `comparison.txt`, `.json`, `.csv` and `.png` into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = dataclasses.asdict(self) | {"folder": str(self.folder)}
        (self.folder / "comparison.json").write_text(json.dumps(content, indent=2) + "\n")
        (self.folder / "comparison.txt").write_text("\n".join(self.lines()) + "\n")
        (self.folder / "comparison.png").write_bytes(plot(self))
        with (self.folder / "comparison.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(RunResult)])
            writer.writeheader()
            writer.writerows(dataclasses.asdict(run) for run in self.runs)


def seed_interval(values: Sequence[float]) -> Interval:
    """Return the mean and its 95 % interval by Student's t; of one value, that value.

    Example:
        >>> interval = seed_interval([1.0, 3.0])  # 2 +- 12.7062 * sqrt(2) / sqrt(2)
        >>> round(interval.low, 3), round(interval.high, 3)
        (-10.706, 14.706)
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, mean, mean)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def fraction(share: float | None) -> str:
    """Write a share as `1/8` where it is one over a whole number.

    Example:
        >>> fraction(0.125), fraction(0.3), fraction(None)
        ('1/8', '0.3', '-')
    """
    if share is None:
        return "-"
    return f"1/{round(1 / share)}" if abs(1 / share - round(1 / share)) < 1e-6 else f"{share:g}"


def plot(report: ComparisonReport) -> bytes:
    """Draw AUC against table bytes, a line per method with its seeds' intervals, as PNG."""
    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=90)
    axis = figure.subplots()
    for method in dict.fromkeys(run.method for run in report.runs):
        shares = [share for name, share in report.cells() if name == method]
        intervals = [report.interval(method, share, "auc") for share in shares]
        sizes = [next(run.bytes for run in report.runs if (run.method, run.share) == (method, s)) for s in shares]
        means = [interval.mean for interval in intervals]
        if method in METHODS:
            spread = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
            marker = "s" if method == COLLISIONLESS else "o"
            axis.errorbar(sizes, means, yerr=spread, marker=marker, capsize=3, label=method)
        else:
            axis.axhline(means[0], linestyle=":", color="grey")
            axis.annotate(method, (0.01, means[0]), xycoords=("axes fraction", "data"), fontsize="x-small", va="bottom")
    axis.set(xscale="log", xlabel="bytes of the table", ylabel="AUC on the test part")
    axis.set_title(f"{report.dataset}, {len(report.seeds)} seeds, 95 % intervals", fontsize="medium")
    axis.legend(fontsize="small")
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()
