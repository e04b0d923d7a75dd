"""How good GenRec is for what it costs: curves over beams, history length, parameters and training time.

Legend: `B` cases.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from features.workspace import Workspace
from models.genrec.config import DecodeConfig, GenRecConfig
from models.metrics import metric_key, ranking_metrics
from models.training.config import TrainConfig
from models.training.genrec import train_genrec
from models.training.genrec_run import KIND
from models.training.runs import Runs
from pipelines.studies.cases import study_cases, study_retriever
from pipelines.studies.config import CurvesConfig

HR, NDCG = metric_key("hr", 10), metric_key("ndcg", 10)
_MAX_HISTORY = 50
"""Newest history items of a case where no shorter ones are asked for."""
BEAMS, HISTORY, PARAMETERS, TRAINING = "beams", "history", "parameters", "training seconds"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement."""

    curve: str
    at: float
    """Beams, history items, parameters or seconds of training."""
    hr_at_10: float
    ndcg_at_10: float
    seconds: float
    """Of answering all cases; of training, on the curve over parameters; 0 for what the training measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvesReport:
    """The curves of one run."""

    run: str
    dataset: str
    split: str
    cases: int
    points: tuple[Point, ...]

    def lines(self) -> list[str]:
        """Return the curves as a table for a terminal."""
        return [
            f"GenRec run {self.run} on {self.dataset}, {self.split} split, {self.cases:,} cases; the curve over "
            "training seconds is of the training's own validation pages",
            f"{'curve':<17} {'at':>10} {'HR@10':>8} {'NDCG@10':>8} {'seconds':>8}",
            *(
                f"{point.curve:<17} {point.at:>10,.0f} {point.hr_at_10:>8.4f} {point.ndcg_at_10:>8.4f} "
                f"{point.seconds:>8.1f}"
                for point in self.points
            ),
        ]


def curves(
    workspace: Workspace,
    config: CurvesConfig,
    genrec: GenRecConfig,
    train: TrainConfig,
    decode: DecodeConfig,
    *,
    seed: int,
    folder: Path,
    progress: Callable[[str], None] | None = None,
) -> CurvesReport:
    """Measure the run that these settings make (found if it was trained) and draw the curves.

    Args:
        workspace: Holds `sequences` and semantic IDs.
        config: What is varied.
        genrec: The model.
        train: Its training loop.
        decode: Its beam search.
        seed: Of the training.
        folder: Where `report.json` and `curves.png` go.
        progress: Told of each point.

    Raises:
        ValueError: A width does not fit the model's other sizes; nothing was trained or measured yet.
    """
    say = progress or (lambda line: None)
    sizes = [_sized(genrec, width) for width in sorted({genrec.width, *config.widths})] if config.widths else []
    study = _Study(workspace, config, decode, say)
    trained = train_genrec(workspace, genrec, train, seed=seed, track=False, latest=False, progress=say)
    for beams in config.beams:
        study.measure(BEAMS, beams, trained.run, beams=beams)
    for items in sorted(config.histories):
        if items <= genrec.max_history:
            study.measure(HISTORY, items, trained.run, history=items)
    for sized in sizes:
        other = train_genrec(workspace, sized, train, seed=seed, track=False, latest=False, progress=say)
        study.measure(PARAMETERS, other.parameters, other.run, seconds=other.train.seconds)
    study.points += _training(workspace, trained.run)
    report = CurvesReport(
        run=trained.run,
        dataset=study.cases.dataset,
        split=config.split,
        cases=len(study.cases),
        points=tuple(study.points),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(dataclasses.asdict(report), indent=2))
    (folder / "curves.png").write_bytes(_draw(report))
    return report


def _sized(genrec: GenRecConfig, width: int) -> GenRecConfig:
    """Return the model with another width, feed-forward in proportion."""
    try:
        return dataclasses.replace(genrec, width=width, ffn_width=genrec.ffn_width * width // genrec.width)
    except ValueError as error:
        raise ValueError(f"curves.widths: {width} does not fit the model: {error}") from error


class _Study:
    """The cases, and the points measured on them so far."""

    def __init__(
        self, workspace: Workspace, config: CurvesConfig, decode: DecodeConfig, say: Callable[[str], None]
    ) -> None:
        self.workspace, self.decode, self.say = workspace, decode, say
        self.points: list[Point] = []
        self.cases = study_cases(
            workspace,
            config.split,
            max_history=max(config.histories, default=_MAX_HISTORY),
            most=config.max_cases,
            seed=config.sample_seed,
        )

    def measure(
        self,
        curve: str,
        at: float,
        run: str,
        *,
        beams: int | None = None,
        history: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Answer all cases with a run, with other beams or a shorter history than its own."""
        decode = self.decode if beams is None else dataclasses.replace(self.decode, beams=beams)
        retriever = study_retriever(self.workspace, run, decode)
        asked = [batch.requests for batch in self.cases.batches(decode.batch_size)]
        if history is not None:
            asked = [requests.with_newest(history) for requests in asked]
        started = time.perf_counter()
        items_BK = np.concatenate([retriever.retrieve(requests, 10).items_BK for requests in asked])
        spent = time.perf_counter() - started
        found = ranking_metrics(items_BK, self.cases.relevant_items, self.cases.relevant_offsets, ks=(10,))
        point = Point(
            curve=curve,
            at=at,
            hr_at_10=float(found[HR].mean()),
            ndcg_at_10=float(found[NDCG].mean()),
            seconds=spent if seconds is None else seconds,
        )
        self.points.append(point)
        self.say(f"{curve} {at:,.0f}: HR@10 {point.hr_at_10:.4f}, NDCG@10 {point.ndcg_at_10:.4f}")


def _training(workspace: Workspace, run: str) -> list[Point]:
    """Return what the training measured on its validation pages, at the share of its seconds that had gone by."""
    report = Runs(workspace, KIND).read_report(run)
    return [
        Point(
            curve=TRAINING,
            at=report.seconds * step / report.steps,
            hr_at_10=metrics[HR],
            ndcg_at_10=metrics[NDCG],
            seconds=0.0,
        )
        for step, metrics in report.evaluations
    ]


def _draw(report: CurvesReport) -> bytes:
    names = list(dict.fromkeys(point.curve for point in report.points))
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        points = [point for point in report.points if point.curve == name]
        axis.plot([point.at for point in points], [point.hr_at_10 for point in points], marker="o")
        axis.set(xlabel=name, ylabel="HR@10")
        axis.grid(alpha=0.3)
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()
