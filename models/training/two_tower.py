"""The two-tower model's training run: pages and items in, a finished run in `checkpoints/two_tower/` out.

It needs no semantic IDs: items are numbered in order of their ids. Under `torchrun` every process calls
`train_two_tower`; the batch's other positives are negatives within a process only.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from features.definitions import PAGE_FEATURES
from features.schemas import TRAIN
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.inputs.items import item_columns
from models.metrics import metric_keys, ranking_metrics
from models.recommend.catalogue import plain_catalogue
from models.recommend.interface import NO_ITEM
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.training.config import TrainConfig, check_monitor
from models.training.loop import Evaluate
from models.training.position import PublishedTraining, described_counts
from models.training.publish import train_and_publish
from models.training.runs import WEIGHTS, Runs
from models.training.streams import ORDER, SAMPLE, stream_seed
from models.training.tracking import code_version
from models.training.two_tower_run import FEATURES, KIND, TwoTowerRun, load_two_tower, run_files
from models.training.validation import validation_cases
from models.training.warm import Rows, find_start, load_fitting, matched_rows, split_of
from models.two_tower.config import TwoTowerConfig
from models.two_tower.inputs import ItemRows, positive_history, tower_columns
from models.two_tower.model import TwoTower
from models.two_tower.schema import Schema, make_schema
from models.two_tower.source import TowerSource, drop_short_histories
from models.two_tower.towers import TwoTowerNet, bag_specs

__all__ = ["TwoTowerRun", "TwoTowerTraining", "load_two_tower", "train_two_tower"]

Floats = npt.NDArray[np.float32]

VALIDATED_AT = (10, 50)
"""Lengths of the lists that validation measures."""
MONITORS = metric_keys(VALIDATED_AT)
"""What weights can be chosen by."""
TABLES = ("clean_items", "clean_users", "sequences", "pages", PAGE_FEATURES)
"""What a training depends on, as far as the workspace has it."""
SSL_FEATURES = 2
"""Fewest item features of which some can be hidden and others shown."""
BATCH = 1024
"""Validation cases ranked together; bounds memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowerTraining(PublishedTraining):
    """What the training of a two-tower model did."""

    examples: int
    """Positive items of the training pages."""
    left_out: Mapping[str, int]
    """What of the training split is no page or no example, by reason."""
    features: Mapping[str, tuple[str, ...]]
    """Blocks of each tower's input."""

    def data_lines(self) -> list[str]:
        """Return sizes, examples and features."""
        return [
            f"two-tower: {self.parameters:,} parameters, {self.examples:,} examples on {self.pages:,} training pages "
            f"(left out: {described_counts(self.left_out)})",
            *(f"{tower} tower reads {', '.join(names)}" for tower, names in self.features.items()),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Data:
    """What a training reads."""

    catalogue: Catalogue
    cases: EvaluationCases
    schema: Schema
    items: ItemRows


def train_two_tower(
    workspace: Workspace,
    model_config: TwoTowerConfig,
    train_config: TrainConfig,
    *,
    seed: int,
    track: bool = True,
    tracking_uri: str | None = None,
    latest: bool = True,
    progress: Callable[[str], None] | None = None,
) -> TwoTowerTraining:
    """Train the two towers and publish them; the same call again finds the finished run, or resumes it.

    Args:
        workspace: Holds `sequences` and `clean_items`; on this machine.
        model_config: Features, towers, losses and batches.
        train_config: The loop. Weights are chosen by `monitor` on the validation split where that has pages.
        seed: Everything random follows from it.
        track: Whether to record the run with MLflow.
        tracking_uri: An MLflow server; None for the workspace's own store.
        latest: Whether it becomes the two-tower that evaluation, releases and other models take.
        progress: Receives a line of text now and then.

    Raises:
        FileNotFoundError: A table is missing.
        ValueError: A feature or `monitor` does not exist, no training page remains, or there are too few examples.
    """
    check_monitor("two_tower_train", train_config, MONITORS)
    say = progress or (lambda line: None)
    data = _load(workspace, model_config, seed)
    if model_config.ssl_weight > 0 and len(data.schema.item) < SSL_FEATURES:
        names = ", ".join(block.name for block in data.schema.item)
        say(f"no self-supervised task: it hides some item features and shows others, these items have only {names}")
        model_config = dataclasses.replace(model_config, ssl_weight=0.0)
    parameters = _parameters(data.schema, model_config)
    tables = [workspace.table(name) for name in TABLES if workspace.table(name).exists()]
    run = TwoTowerRun(
        model=model_config,
        train=train_config,
        seed=seed,
        items=len(data.catalogue),
        inputs={table.name: table.manifest().fingerprint for table in tables},
        schema=hashlib.sha256(data.schema.to_bytes()).hexdigest()[:16],
        code_version=code_version(),
        split=split_of(workspace),
    )
    start = find_start(
        workspace,
        KIND,
        train_config,
        run.to_json(),
        vary=("items", "inputs", "schema"),
        fits=lambda before: _schema_reason(Schema.load(str(before.folder / FEATURES)), data.schema),
        say=say,
    )
    run = dataclasses.replace(run, warm_from=start.warm_from)
    tracking = train_and_publish(
        workspace,
        KIND,
        run.name,
        config=run.to_json(),
        build=lambda: _build(run, data.schema, Runs(workspace, KIND)),
        source=lambda rank, world_size: TowerSource(
            data.cases, data.items, model_config, seed=stream_seed(seed, ORDER), rank=rank, world_size=world_size
        ),
        train_config=start.train,
        seed=seed,
        evaluate=lambda net: _validation(workspace, run, net, data, say),
        files=lambda weights: run_files(run, data.schema, data.catalogue.item_ids, data.items, weights),
        tags=run.inputs,
        track=track,
        tracking_uri=tracking_uri,
        latest=latest,
        progress=progress,
    )
    runs = Runs(workspace, KIND)
    return TwoTowerTraining(
        run=run.name,
        folder=str(runs.folder(run.name)),
        pages=len(data.cases),
        examples=len(data.cases.relevant_items),
        left_out=data.cases.left_out,
        features={
            "user": tuple(block.name for block in data.schema.user),
            "item": tuple(block.name for block in data.schema.item),
        },
        parameters=parameters,
        train=runs.read_report(run.name),
        tracking=tracking,
    )


def _load(workspace: Workspace, config: TwoTowerConfig, seed: int) -> _Data:
    """Read items and training pages, and decide features and vocabularies."""
    table = workspace.table("clean_items").read().sort_by("item_id")
    catalogue = plain_catalogue(table.column("item_id").to_pylist())
    columns = item_columns(table)
    cases = requests_from_sequences(workspace, catalogue, TRAIN, max_history=config.max_history)
    cases = drop_short_histories(cases, config.min_history)
    if config.train_fraction < 1:
        cases = _sample(cases, config.train_fraction, seed)
    trained = np.unique(np.concatenate([cases.relevant_items, positive_history(cases.requests)[0]]))
    schema = make_schema(columns, tower_columns(cases.requests), trained, config, order_only=cases.order_only)
    return _Data(catalogue=catalogue, cases=cases, schema=schema, items=ItemRows.of(schema, columns))


def _sample(cases: EvaluationCases, fraction: float, seed: int) -> EvaluationCases:
    """Return a share of the pages, drawn by the seed, in their order."""
    count = max(1, round(fraction * len(cases)))
    rows = np.random.default_rng([seed, SAMPLE]).choice(len(cases), count, replace=False)
    return cases.take(np.sort(rows))


def _parameters(schema: Schema, config: TwoTowerConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in TwoTowerNet(schema, config, 1).parameters())


def _build(run: TwoTowerRun, schema: Schema, runs: Runs) -> TwoTowerNet:
    from models.training.bags import TorchRecBags

    net = TwoTowerNet(schema, run.model, run.items, TorchRecBags(*bag_specs(schema, run.model)))
    if run.warm_from is not None:
        folder = runs.folder(run.warm_from)
        rows = _matched_tables(Schema.load(str(folder / FEATURES)), schema)
        load_fitting(net, folder / WEIGHTS, rows, own=lambda name: name.startswith("frequency."))
    return net


def _schema_reason(before: Schema, now: Schema) -> str | None:
    """Return why the towers of two schemas differ in shape, None where they do not."""
    blocks = [[(block.name, block.width) for block in (*schema.item, *schema.user)] for schema in (before, now)]
    if blocks[0] == blocks[1] and before.tables == now.tables:
        return None
    names = sorted({name for name, _ in {*blocks[0]} ^ {*blocks[1]}})
    return f"other features: {', '.join(names) or 'in another order'}"


def _matched_tables(before: Schema, now: Schema) -> dict[str, Rows]:
    """Return the rows of common values, by the names of the tables' weights."""
    old, new = ({**schema.item_values, **schema.user_values} for schema in (before, now))
    return {
        f"bags.collection.embedding_bags.{table}.weight": matched_rows(new[column], old[column])
        for column, table in now.tables.items()
    }


def _validation(
    workspace: Workspace, run: TwoTowerRun, net: TwoTowerNet, data: _Data, say: Callable[[str], None]
) -> Evaluate | None:
    """Return the measurement of the model on a sample of validation pages, None where there are none."""
    pages, max_history = run.train.validation_pages, run.model.max_history
    cases = validation_cases(
        workspace, data.catalogue, pages=pages, max_history=max_history, seed=run.seed, progress=say
    )
    if cases is None:
        return None
    model = TwoTower(net, data.schema, data.catalogue.item_ids, data.items)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return exact_metrics(model, cases, data.catalogue)

    return evaluate


def exact_metrics(model: TwoTower, cases: EvaluationCases, catalogue: Catalogue) -> dict[str, float]:
    """Return the means of `ranking_metrics` when all known items are ranked by cosine, without any index.

    Args:
        model: The model whose known items are those of the catalogue.
        cases: Pages to be predicted.
        catalogue: Numbers the items.

    Raises:
        ValueError: The model knows other items than the catalogue holds.
    """
    if not model.item_ids.equals(catalogue.item_ids):
        raise ValueError("exact metrics: expected a catalogue of the items the model knows, in their order")
    ranked_BK = _nearest(model.user_vectors(cases.requests, catalogue), model.known_item_vectors(), max(VALIDATED_AT))
    values = ranking_metrics(ranked_BK, cases.relevant_items, cases.relevant_offsets, ks=VALIDATED_AT)
    return {name: float(values_B.mean()) for name, values_B in values.items()}


def _nearest(user_BD: Floats, item_ND: Floats, k: int) -> npt.NDArray[np.int64]:
    """Return the items of the largest products, `[B, k]`; none for users without a vector, or where items run out."""
    ranked_BK = np.full((len(user_BD), k), NO_ITEM, dtype=np.int64)
    item_DN = torch.from_numpy(item_ND).T
    depth = min(k, len(item_ND))
    for start in range(0, len(user_BD), BATCH):
        part = slice(start, start + BATCH)
        ranked_BK[part, :depth] = (torch.from_numpy(user_BD[part]) @ item_DN).topk(depth).indices.numpy()
    ranked_BK[~user_BD.any(axis=1)] = NO_ITEM
    return ranked_BK
