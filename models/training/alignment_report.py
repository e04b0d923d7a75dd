"""What an alignment did."""

from __future__ import annotations

import dataclasses
import datetime

from models.alignment.config import AlignConfig
from models.training.alignment_measure import SHOWN
from models.training.alignment_pages import AlignmentPages
from models.training.genrec_run import GenRecRun
from models.training.position import PublishedTraining
from models.training.runs import Runs

DEGENERATE = {
    "no candidate": "empty_share",
    "none let through the gate": "all_gated_share",
    "no spread of rewards": "zero_spread_share",
}
"""Groups from which the policy gradient learns nothing, or less: how they are called, and the diagnostic."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment(PublishedTraining):
    """What the alignment of a GenRec did; `pages` are those aligned on."""

    generation: str
    """Of the semantic IDs."""
    aligned_from: str
    """The supervised run."""
    reward: str
    """The reward model's run."""
    align: AlignConfig
    days: tuple[str, str, str]
    """First day that chose and calibrated the reward model, first and last day aligned on."""
    before: dict[str, float]
    """Held-out measurement of the supervised weights; empty without validation pages."""
    groups: int
    """Groups of candidates that were judged."""
    degenerate: dict[str, int]
    """Groups without candidates, all gated, without spread, without a positive."""

    @classmethod
    def of(cls, run: GenRecRun, pages: AlignmentPages, runs: Runs, tracking: list[str]) -> Alignment:
        """Read the report of a finished run."""
        train = runs.read_report(run.name)
        assert run.aligned_from is not None
        assert run.align is not None
        assert run.reward is not None
        moments = (pages.days.calibrated_from, pages.days.aligned_from, int(pages.cases.requests.times_B.max()))
        shares = {name: train.means[diagnostic] for name, diagnostic in DEGENERATE.items()}
        shares["no positive of the page"] = 1 - train.means["group_hit_rate"]
        return cls(
            run=run.name,
            folder=str(runs.folder(run.name)),
            pages=len(pages.cases),
            parameters=sum(parameter.numel() for parameter in run.build().parameters()),
            train=train,
            tracking=tracking,
            generation=run.generation,
            aligned_from=run.aligned_from,
            reward=run.reward,
            align=run.align,
            days=(_day(moments[0]), _day(moments[1]), _day(moments[2])),
            before=train.evaluations[0][1] if train.evaluations else {},
            groups=train.examples,
            degenerate={name: round(share * train.examples) for name, share in shares.items()},
        )

    @property
    def exploited(self) -> bool:
        """Whether the stop rule ended the run."""
        return self.train.stopped != "epochs"

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        return [
            *self.data_lines(),
            *self.step_lines(),
            *self.result_lines(),
            *self.tracking,
            f"run {self.run} of semantic IDs {self.generation}: {self.folder}",
        ]

    def data_lines(self) -> list[str]:
        """Return what was aligned, on what, by which reward."""
        return [
            f"GenRec run {self.aligned_from} aligned on {self.pages:,} pages of {self.days[1]} to {self.days[2]}",
            f"reward model {self.reward}: pages before {self.days[1]}, calibrated on those from {self.days[0]}",
        ]

    def step_lines(self) -> list[str]:
        """Return how long it took, and which groups taught nothing."""
        train, means = self.train, self.train.means
        counts = ", ".join(f"{count:,} with {name}" for name, count in self.degenerate.items())
        reason = f"stopped: {train.stopped}" if self.exploited else "all steps taken"
        return [
            f"{train.steps:,} steps in {train.seconds:.1f} s, {self.groups / train.seconds:,.0f} pages/s with "
            f"{self.align.group} candidates each, peak RSS {train.peak_rss_mb:,.0f} MB; {reason}",
            f"of {self.groups:,} groups: {counts}; gate open for {means['gate_rate']:.1%} of candidates",
        ]

    def result_lines(self) -> list[str]:
        """Return the held-out measurement before and after."""
        if not self.before:
            return ["no validation pages: the last weights are used, unmeasured"]
        rows = [
            f"  {name:<20}{self.before[name]:>10.4f}{self.train.metrics[name]:>10.4f}"
            f"{self.train.metrics[name] - self.before[name]:>+10.4f}"
            for name in SHOWN
        ]
        best = self.train.best_step
        which = f"of step {best}" if best else "the supervised ones, nothing better came"
        return [f"weights chosen on held-out pages: {which}", f"  {'':<20}{'before':>10}{'after':>10}", *rows]


def _day(moment: int) -> str:
    return datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC).date().isoformat()
