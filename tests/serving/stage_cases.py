"""A tiny release with models for every stage: GenRec and a ranker of random weights, a two-tower of one epoch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from release_cases import DECODE, UNTRAINED, make_genrec, make_workspace

from features.columns import Columns
from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.redis_store import open_store
from features.workspace import Workspace
from models.inputs.items import item_columns
from models.inputs.requests import request_columns
from models.ranker.calibration import Calibration
from models.ranker.config import RankerConfig
from models.ranker.cross import pair_columns
from models.ranker.data import HISTORY_FEATURES
from models.ranker.layout import make_layout
from models.ranker.model import UnifiedRanker
from models.recommend.catalogue import catalogue_of
from models.recommend.config import RecommendConfig
from models.recommend.release import golden_requests, write_release
from models.recommend.release_parts import ReleaseConfig
from models.tokenizer.bundle import Bundle
from models.training.config import TrainConfig
from models.training.export import full_state, weights_bytes
from models.training.ranker_run import CALIBRATION
from models.training.runs import WEIGHTS, Runs
from models.training.two_tower import train_two_tower
from models.two_tower.config import TwoTowerConfig

TOWERS = TwoTowerConfig(
    hidden=(16, 8),
    item_dimensions=8,
    feature_dimensions=4,
    history_windows=(1, 3),
    batch_size=16,
    uniform_negatives=8,
    frequency_buckets=64,
)
RANKER = RankerConfig(rows=200, dimensions=4, exact_limit=3, deep_widths=(8,), attention_width=4, max_history=2)


def make_full_workspace(root: Path) -> Workspace:
    """The workspace of `release_cases` with a run of each kind of model, and its store filled."""
    workspace = make_workspace(root)
    make_genrec(workspace)
    quick = TrainConfig(epochs=1, precision="float32", threads=1)
    train_two_tower(workspace, TOWERS, quick, seed=1, track=False)
    make_ranker(workspace)
    with open_store(StoreConfig(), workspace) as store:
        backfill(workspace, store, StoreConfig())
    return workspace


def make_ranker(workspace: Workspace) -> None:
    """Publish untrained weights that look at items, histories and the moment."""
    bundle = Bundle.load(workspace)
    requests = golden_requests(workspace, catalogue_of(bundle, workspace))
    items, columns = item_columns(workspace.table("clean_items").read().sort_by("item_id")), request_columns(requests)
    first = np.zeros(len(requests), dtype=np.int64)
    layout = make_layout(
        RANKER,
        request=columns,
        item=items,
        moment=Columns(rows=len(requests)),
        pair=pair_columns(columns, items, np.arange(len(requests)), first),
        history=HISTORY_FEATURES,
    )
    torch.manual_seed(2)
    model = UnifiedRanker(RANKER, layout, log_odds=(0.0, 0.0, 0.0))
    with torch.no_grad():
        for parameter in model.parameters():  # far from ties, whatever the rounding
            parameter.normal_(std=0.5)
    config = {
        "model": dataclasses.asdict(RANKER),
        "layout": dataclasses.asdict(layout),
        "log_odds": [0.0, 0.0, 0.0],
    }
    fitted = json.dumps({"calibration": dataclasses.asdict(Calibration())}).encode()
    files = {WEIGHTS: weights_bytes(full_state(model)), CALIBRATION: fitted}
    Runs(workspace, "ranker").write("r1", config, files, UNTRAINED)


def make_full_release(workspace: Workspace, kinds: tuple[str, ...] = ("genrec", "two_tower", "ranker")) -> Path:
    """Release the newest run of each kind; pages of five, with exploration."""
    releases = workspace.local_path("releases")
    config = ReleaseConfig(recommend=RecommendConfig(page_size=5, epsilon=0.2), decode=DECODE)
    runs = {kind: Runs(workspace, kind).latest() for kind in kinds}
    return releases / write_release(releases, workspace, config=config, runs=runs).release_id
