"""What a replay says: the verdict, what it rests on, and what else was found; as lines, JSON, metrics."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from pipelines.replay.diagnostics import DiagnosticsReport
from pipelines.replay.estimates import Estimate
from pipelines.replay.verdict import DO_NOT_SHIP, SHIP, Verdict, finite

HTML, JSON, VERDICT = "report.html", "report.json", "verdict.json"
"""Files of a replay."""
TITLES = {SHIP: "Ship B", DO_NOT_SHIP: "Do not ship B"}
UNDECIDED = "Not enough evidence"
_SHOWN_SLICES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the two policies.

    Attributes:
        spec: As it was named.
        title: What it is, in words.
        release: Its release id, None for a policy that is none.
    """

    spec: str
    title: str
    release: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked of which pages.

    Attributes:
        champion: Policy A.
        challenger: Policy B.
        logs: Where the pages lie.
        window: First and last moment of the pages.
        pages: Pages in the logs.
        counted: Those among them that count: of the window, final, each once, without faults.
        users: Distinct users of these.
        reward: In words.
        unit: What it is a mean over.
        candidates: What a policy could choose from, in words.
        logged_by: Policies that made the pages, as they call themselves.
        inputs: Digest of pages and options.
    """

    champion: Contender
    challenger: Contender
    logs: str
    window: str
    pages: int
    counted: int
    users: int
    reward: str
    unit: str
    candidates: str
    logged_by: tuple[str, ...]
    inputs: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """A replay.

    Attributes:
        question: What was compared.
        verdict: The decision with its gates.
        estimates: What each estimator says; the one that decides is among them.
        diagnostics: How far the pages can be trusted; None for a live split, where no page is weighted.
        detectable: The difference that would be found four times of five with so many users.
        notes: What a reader should know besides, each without a full stop.
        seconds: The whole took.
        folder: Where the report lies.
    """

    question: Question
    verdict: Verdict
    estimates: tuple[Estimate, ...]
    diagnostics: DiagnosticsReport | None
    detectable: float
    notes: tuple[str, ...]
    seconds: float
    folder: str

    @property
    def primary(self) -> Estimate:
        """The estimate that decides."""
        return next(one for one in self.estimates if one.name == self.verdict.estimator)

    @property
    def title(self) -> str:
        """The verdict in large letters."""
        return TITLES.get(self.verdict.verdict, UNDECIDED)

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal: the verdict first."""
        *verdict, end = self.summary()
        return [
            *verdict,
            "",
            *table_lines(estimate_rows(self.estimates, self.verdict)),
            *([f"  ~ {SILENT}"] if self.verdict.silent else []),
            "",
            "gates:",
            *(f"  {check.line()}" for check in self.verdict.checks),
            *self._slice_lines(),
            *(f"note: {note}" for note in self.notes),
            end,
        ]

    def summary(self) -> list[str]:
        """Return the verdict, what was asked, and where the report lies."""
        asked = self.question
        return [
            *self.verdict.lines(),
            f"B = {asked.challenger.title}",
            f"A = {asked.champion.title}",
            f"{asked.counted:,} pages of {asked.users:,} users, {asked.window} UTC; {asked.reward} per {asked.unit}; "
            f"{asked.candidates}",
            f"{self.seconds:.1f} s, {asked.counted / max(self.seconds, 1e-9):,.0f} pages/s; report: "
            f"{self.folder}/{HTML}",
        ]

    def to_json(self) -> bytes:
        """Serialise; what is not a finite number becomes null."""
        document = {**dataclasses.asdict(self), "title": self.title, "verdict": self.verdict.as_json()}
        return json.dumps(finite(document), indent=2, sort_keys=True, allow_nan=False).encode()

    def verdict_json(self) -> bytes:
        """Return what `Registry.promote` asks for."""
        return json.dumps(self.verdict.as_json(), indent=2, sort_keys=True, allow_nan=False).encode()

    def metrics(self) -> dict[str, float]:
        """Return figures for MLflow: finite ones."""
        found = {
            "promote": float(self.verdict.promote),
            "pages": float(self.question.counted),
            "users": float(self.question.users),
            "gates_failed": float(sum(not check.passed for check in self.verdict.checks)),
            "detectable_difference": self.detectable,
            "difference": self.verdict.difference,
            "difference_low": self.verdict.low,
            "difference_high": self.verdict.high,
        }
        for one in self.estimates:
            found |= {f"difference_{one.name}": one.difference, f"se_{one.name}": one.se}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _slice_lines(self) -> list[str]:
        if self.diagnostics is None:
            return []
        found = self.diagnostics.slices
        real = sorted((one for one in found.slices if one.real), key=lambda one: one.adjusted_p)
        lines = [f"slices: {len(found.slices)}, {len(real)} with a real difference"] if found.slices else []
        return lines + [
            f"  {one.name}: {one.difference:+.4g} [{one.low:+.4g}, {one.high:+.4g}]" for one in real[:_SHOWN_SLICES]
        ]


ESTIMATE_HEADER = (
    "estimator", "A", "B", "B - A", "lift", "interval", "bootstrap", "always valid", "bias up to", "worth users",
    "chosen",
)  # fmt: skip


SILENT = (
    "neither decides nor contradicts: worth too few users, weights off 1 on average, or a promise that does not hold"
)
"""What is said of estimates with a tilde."""


def estimate_rows(estimates: Sequence[Estimate], verdict: Verdict) -> list[list[str]]:
    """Return the lift table as texts, a header first; what decides has a star, what has no say (`SILENT`) a tilde.

    Intervals contain what shrinking weights may have cost, which has a column of its own.
    """
    rows, marks = [list(ESTIMATE_HEADER)], {**dict.fromkeys(verdict.silent, " ~"), verdict.estimator: " *"}
    for one in (estimate.widened() for estimate in estimates):
        rows.append(
            [
                f"{one.name}{marks.get(one.name, '')}",
                number(one.value_a),
                number(one.value_b),
                number(one.difference, signed=True),
                percent(one.difference / one.value_a if one.value_a else math.nan),
                interval(one.low, one.high),
                interval(one.bootstrap_low, one.bootstrap_high),
                interval(one.always_valid_low, one.always_valid_high),
                "not known" if one.promise == "none" else number(one.bias_bound),
                "-"
                if one.effective_users_b is None
                else number(min(one.effective_users_a or 0, one.effective_users_b)),
                "-" if one.parameter is None else number(one.parameter),
            ]
        )
    return rows


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a number as a text.

    Example:
        >>> number(0.123456), number(1234.5, signed=True), number(float("nan")), number(float("inf"))
        ('0.1235', '+1,234', '-', 'none')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "none"
    sign = "+" if signed else ""
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.4g}"


def interval(low: float, high: float) -> str:
    """Return an interval as a text.

    Example:
        >>> interval(-0.5, 0.25)
        '[-0.5, +0.25]'
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    return f"[{number(low, signed=True)}, {number(high, signed=True)}]"


def percent(share: float) -> str:
    """Return a signed share as a text.

    Example:
        >>> percent(0.0312)
        '+3.1 %'
    """
    return f"{100 * share:+.1f} %" if math.isfinite(share) else "-"


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of texts as lines of equal columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
