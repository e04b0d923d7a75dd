"""The ranker's training run: pages in, a finished run in `checkpoints/ranker/` out.

It needs no semantic IDs: items are numbered as `clean_items` has them. Legend: `P` pages, `N` items.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from torch import Tensor, nn

from features.definitions import ITEM_FEATURES, PAGE_FEATURES
from features.schemas import TRAIN, VALIDATION
from features.semantic_ids import Catalogue
from features.values import ItemSnapshots
from features.workspace import Workspace
from models.inputs.items import item_columns
from models.ranker.calibration import Calibration
from models.ranker.config import HEADS, RankerConfig
from models.ranker.data import RankerData, Sides
from models.ranker.examples import RankerExamples, load_examples
from models.ranker.layout import Layout, Side
from models.ranker.measure import METRICS, HeadCalibration, calibrate, metrics, predict
from models.ranker.model import UnifiedRanker
from models.ranker.source import PageSource
from models.ranker.unified import TableStatistics, UnifiedEmbedding, table_statistics
from models.recommend.catalogue import plain_catalogue
from models.training.config import TrainConfig, check_monitor
from models.training.loop import Evaluate
from models.training.position import PublishedTraining, described_counts
from models.training.publish import train_and_publish
from models.training.ranker_run import CALIBRATION, KIND, REWARD, load_ranker
from models.training.reward_days import RewardDays
from models.training.runs import WEIGHTS, Runs
from models.training.streams import CASES, ORDER, stream_seed
from models.training.tracking import code_version
from models.training.warm import find_start, load_fitting, split_of

MONITORS = tuple(name for name in METRICS if name.startswith("auc"))
"""What weights can be chosen by: of the other metrics more is not better."""
_TABLES = ("clean_items", "sequences", "item_statistics", PAGE_FEATURES, ITEM_FEATURES)
_OPTIONAL_TABLES = ("pages", "clean_users")
"""What a run depends on: tables that must be there, and those that tell contexts and attributes where they are."""
_Between = tuple[int | None, int | None]
_NEGATIVES = 10
"""Names the streams of drawn negatives, apart from those of `models.training.streams`; one per split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerTraining(PublishedTraining):
    """What the training of a ranker did."""

    candidates: int
    """Of the training pages."""
    drawn: bool
    """Whether negatives were drawn because the log holds no impressions."""
    dropped: dict[str, int]
    """What of the training pages is no candidate, by reason."""
    table: TableStatistics
    popularity_auc: float | None
    """Of a click, by the items' popularity alone, on the validation pages that calibration is measured on."""
    calibration: list[HeadCalibration]
    """On all validation pages; empty without any."""

    def data_lines(self) -> list[str]:
        """Return sizes, candidates and the load of the shared table."""
        negatives = "drawn negatives" if self.drawn else "what was shown and left alone"
        return [
            f"ranker: {self.parameters:,} parameters, {self.pages:,} training pages with {self.candidates:,} "
            f"candidates, negatives are {negatives} (left out: {described_counts(self.dropped)})",
            *self.table.lines(),
        ]

    def result_lines(self) -> list[str]:
        """Return the calibration of each head, and what popularity alone would reach."""
        popularity = [] if self.popularity_auc is None else [f"popularity alone: AUC {self.popularity_auc:.4f}"]
        return [*(head.line() for head in self.calibration), *popularity]


def train_ranker(
    workspace: Workspace,
    model_config: RankerConfig,
    train_config: TrainConfig,
    *,
    seed: int,
    reward: RewardDays | None = None,
    track: bool = True,
    tracking_uri: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> RankerTraining:
    """Train the ranker on pages and publish it; the same call again finds the finished run, or resumes it.

    Args:
        workspace: Holds `clean_items`, `sequences`, `item_statistics` and the feature tables; on this machine.
        model_config: Shape of the model, its inputs and its batches.
        train_config: The loop. Weights are chosen by `monitor`, one of `MONITORS`, on the
            validation split where that has pages.
        seed: Everything random follows from it.
        reward: Train a reward model instead, a run of kind `reward`: on the earliest training pages, chosen and
            calibrated on the next, not on the validation split.
        track: Whether to record the run with MLflow.
        tracking_uri: An MLflow server; None for the workspace's own store.
        progress: Receives a line of text now and then.

    Raises:
        FileNotFoundError: A table is missing.
        ValueError: A feature or `monitor` is unknown, no training page remains, or there are fewer than processes.
    """
    check_monitor("ranker_train", train_config, MONITORS)
    job = _Job(workspace, model_config, train_config, seed, reward, progress or (lambda line: None))
    kind = KIND if reward is None else REWARD
    tracking = train_and_publish(
        workspace,
        kind,
        job.name,
        config=job.config,
        build=job.build,
        source=job.source,
        train_config=job.start.train,
        seed=seed,
        evaluate=job.evaluation,
        files=job.files,
        tags=job.inputs,
        track=track,
        tracking_uri=tracking_uri,
        progress=progress,
    )
    return _training(workspace, kind, job.name, tracking)


class _Job:
    """The data of a run and what `train_and_publish` asks for."""

    def __init__(
        self,
        workspace: Workspace,
        model_config: RankerConfig,
        train_config: TrainConfig,
        seed: int,
        reward: RewardDays | None,
        say: Callable[[str], None],
    ) -> None:
        self.model_config, self.train_config, self.seed, self.say = model_config, train_config, seed, say
        self.reward = reward
        tables = [*_TABLES, *(name for name in _OPTIONAL_TABLES if workspace.table(name).exists())]
        self.inputs = {name: workspace.table(name).manifest().fingerprint for name in tables}
        items = workspace.table("clean_items").read().sort_by("item_id")
        self.catalogue = plain_catalogue(items["item_id"].combine_chunks())
        self.popularity_N = _popularity(workspace, self.catalogue)
        columns = item_columns(items)
        snapshots = ItemSnapshots.load(workspace, self.catalogue.item_ids)
        learned, held_out_pages = _periods(reward)
        examples = self._examples(workspace, *learned)
        sides = Sides.of(examples, columns, snapshots)
        self.layout = sides.layout(model_config)
        self.data = RankerData.of(model_config, self.layout, examples, sides)
        self.log_odds = _log_odds(examples)
        self.table = table_statistics(
            model_config, self.layout, {"request": sides.request, "item": sides.item, "moment": sides.moment}
        )
        self.runs = Runs(workspace, KIND if reward is None else REWARD)
        self.warm_from: str | None = None
        self.split = split_of(workspace)
        self.start = find_start(
            workspace,
            self.runs.kind,
            train_config if reward is None else dataclasses.replace(train_config, warm_start=None),
            self.config,
            vary=("inputs", "items", "layout", "log_odds", "data", "table"),
            fits=lambda run: _layout_reason(Layout.from_json(run.config["layout"]), self.layout),
            say=say,
        )
        self.warm_from = self.start.warm_from
        self.validation: RankerData | None = None
        try:
            held_out = self._examples(workspace, *held_out_pages)
            held_out_sides = Sides.of(held_out, columns, snapshots)
            self.validation = RankerData.of(model_config, self.layout, held_out, held_out_sides)
        except ValueError as error:
            say(f"no validation, the last weights will be used, uncalibrated: {error}")

    def _examples(self, workspace: Workspace, split: str, between: _Between) -> RankerExamples:
        rng = np.random.default_rng([self.seed, _NEGATIVES, split == TRAIN])
        config, popularity_N = self.model_config, self.popularity_N
        return load_examples(
            workspace, self.catalogue, split, config, popularity_N=popularity_N, rng=rng, between=between
        )

    @property
    def name(self) -> str:
        """A digest of all inputs."""
        inputs = [dataclasses.asdict(self.model_config), dataclasses.asdict(self.train_config), self.seed, self.inputs]
        if self.reward is not None:
            inputs.append(dataclasses.asdict(self.reward))
        if self.warm_from is not None:
            inputs.append(self.warm_from)
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def config(self) -> dict[str, Any]:
        """What the weights are, as JSON."""
        examples = self.data.examples
        return {
            "model": dataclasses.asdict(self.model_config),
            "train": dataclasses.asdict(self.train_config),
            "seed": self.seed,
            "inputs": self.inputs,
            "reward": None if self.reward is None else dataclasses.asdict(self.reward),
            "items": len(self.catalogue),
            "layout": dataclasses.asdict(self.layout),
            "log_odds": list(self.log_odds),
            "code_version": code_version(),
            "warm_from": self.warm_from,
            "split": self.split,
            "data": {
                "pages": len(examples),
                "candidates": len(examples.items_R),
                "drawn": examples.drawn,
                "dropped": examples.dropped,
            },
            "table": dataclasses.asdict(self.table),
        }

    def build(self) -> UnifiedRanker:
        """Return the untrained model with a TorchRec table."""
        from models.training.tables import TorchRecTables

        tables = TorchRecTables(UnifiedEmbedding.table_specs(self.model_config))
        model = UnifiedRanker(self.model_config, self.layout, tables, self.log_odds)
        if self.warm_from is not None:
            load_fitting(model, self.runs.folder(self.warm_from) / WEIGHTS)
        return model

    def source(self, rank: int, world_size: int) -> PageSource:
        """Return the batches of a process."""
        seed = stream_seed(self.seed, ORDER)
        return PageSource(self.data, self.model_config.batch_size, seed=seed, rank=rank, world_size=world_size)

    def evaluation(self, model: UnifiedRanker) -> Evaluate | None:
        """Return the measurement on a sample of validation pages."""
        data = self.validation
        if data is None:
            return None
        rng = np.random.default_rng([self.seed, CASES])
        count = min(len(data.examples), self.train_config.validation_pages)
        pages = np.sort(rng.choice(len(data.examples), count, replace=False))
        rows = np.flatnonzero(np.isin(data.examples.pages, pages))

        def evaluate(_: nn.Module) -> dict[str, float]:
            return metrics(predict(model, data, pages), data.examples.label_RH[rows], data.examples.rate_R[rows])

        return evaluate

    def files(self, weights: Mapping[str, Tensor]) -> dict[str, bytes]:
        """Calibrate the finished model."""
        calibration, popularity_auc = Calibration(), None
        heads: list[HeadCalibration] = []
        if self.validation is not None:
            model = UnifiedRanker(self.model_config, self.layout)
            model.load_state_dict(dict(weights))
            examples = self.validation.examples
            logit_RH = predict(model.eval(), self.validation, np.arange(len(examples)))
            calibration, heads = calibrate(logit_RH, examples.label_RH, examples.rate_R, np.diff(examples.offsets))
            popular_R3 = np.log1p(self.popularity_N[examples.items_R])[:, None].repeat(len(HEADS), axis=1)
            popularity_auc = metrics(popular_R3, examples.label_RH, examples.rate_R)["auc"]
        document = {
            "calibration": dataclasses.asdict(calibration),
            "heads": [dataclasses.asdict(head) for head in heads],
            "popularity_auc": popularity_auc,
        }
        return {CALIBRATION: json.dumps(document, indent=2).encode()}


def _layout_reason(before: Layout, now: Layout) -> str | None:
    """Return why the weights of a layout do not fit another: numbers may have other scales, ids must be the same."""
    sides = [(name, getattr(before, name), getattr(now, name)) for name in ("request", "item", "moment", "pair")]
    changed = [name for name, old, new in sides if _shape(old) != _shape(new)]
    return f"other features, or other values of exact ones: {', '.join(changed)}" if changed else None


def _shape(side: Side) -> tuple[object, ...]:
    return side.ids, [(number.name, number.missing) for number in side.numbers]


def _periods(reward: RewardDays | None) -> tuple[tuple[str, _Between], tuple[str, _Between]]:
    """Return the split and the moments of the pages that are learned from, and of those held out."""
    if reward is None:
        return (TRAIN, (None, None)), (VALIDATION, (None, None))
    return (TRAIN, (None, reward.calibrated_from)), (TRAIN, (reward.calibrated_from, reward.aligned_from))


def _training(workspace: Workspace, kind: str, name: str, tracking: list[str]) -> RankerTraining:
    runs = Runs(workspace, kind)
    finished = runs.open(name)
    calibration = json.loads((finished.folder / CALIBRATION).read_bytes())
    model, _ = load_ranker(workspace, name, kind)
    return RankerTraining(
        run=name,
        folder=str(finished.folder),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        table=TableStatistics(**finished.config["table"]),
        popularity_auc=calibration["popularity_auc"],
        calibration=[HeadCalibration(**head) for head in calibration["heads"]],
        train=runs.read_report(name),
        tracking=tracking,
        **finished.config["data"],
    )


def _popularity(workspace: Workspace, catalogue: Catalogue) -> np.ndarray:
    """Return the number of positive events of each item before the split."""
    statistics = workspace.table("item_statistics").read(["item_id", "popularity"])
    row_N = pc.index_in(catalogue.item_ids, value_set=statistics["item_id"].combine_chunks())
    return pc.fill_null(statistics["popularity"].combine_chunks().take(row_N), 0.0).to_numpy(zero_copy_only=False)


def _log_odds(examples: RankerExamples) -> tuple[float, ...]:
    """Return where the heads start: the log-odds of each label, a little off where all are alike."""
    rates_H = (examples.label_RH.sum(axis=0) + 1) / (len(examples.items_R) + 2)
    shift = float(examples.rate_R.mean())
    return tuple(math.log(rate / (1 - rate)) + shift for rate in rates_H.tolist())
