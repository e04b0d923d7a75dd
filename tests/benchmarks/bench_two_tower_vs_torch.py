"""Training of the two-tower model on fused FBGEMM tables against the same network in plain PyTorch.

The peer looks bags up with `nn.EmbeddingBag(sparse=True)`, has `F.cross_entropy` as its loss and updates the rows of a
batch with a vectorised row-wise Adagrad; towers, batches, AdamW and precision are the same objects and options on both
sides. After 5 steps in float32 both must have the same weights. Steps of both are timed in turn, on one thread and by
the processor's time, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.jagged import offsets_from_lengths
from models.embedding.spec import BagSpec, TableSpec
from models.precision import autocast_type
from models.training.bags import TorchRecBags
from models.training.config import TrainConfig
from models.training.distributed import process_group
from models.training.engine import ShardedEngine
from models.training.export import full_state
from models.training.optimizers import TABLE_EPSILON, DenseOptimizer
from models.two_tower.bags import Bag
from models.two_tower.config import TwoTowerConfig
from models.two_tower.inputs import TowerInputs
from models.two_tower.loss import mixture_probability
from models.two_tower.schema import Block, Schema
from models.two_tower.towers import TowerBatch, TwoTowerNet, bag_specs

NAME = "two_tower_vs_torch"
ROWS = 1_000_000
CONFIG = TwoTowerConfig(history_features=("item_id", "brand", "seller"), frequency_buckets=1_048_576)
"""The model's defaults: history windows of 1, 5 and 50 items, three history features, towers and batch."""
WORDS, HISTORY = 8, 50
"""Words of a title; history items of an example."""
TIMED_STEPS = 30
CPU = torch.device("cpu")


class PeerBags(nn.Module):
    """The same lookups as a PyTorch user writes them: one `nn.EmbeddingBag` per table, called for each feature."""

    def __init__(self, tables: list[TableSpec], bags: list[BagSpec]) -> None:
        super().__init__()
        self.table_of = {bag.name: bag.table for bag in bags}
        self.tables = nn.ModuleDict(
            {
                table.name: nn.EmbeddingBag(
                    table.rows, table.dimensions, mode="mean", sparse=True, include_last_offset=True
                )
                for table in tables
            }
        )

    def forward(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Return the mean vector of each bag."""
        return {name: self.tables[self.table_of[name]](*bag) for name, bag in values.items()}


class PeerNet(TwoTowerNet):
    """The same network with the loss in operations of PyTorch."""

    def loss(self, batch: TowerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy of the positives among the candidates, corrected for their probabilities."""
        user_BD, item_CD = self.vectors(batch.user, batch.item)
        log_q_C = mixture_probability(self.frequency(batch.candidates), batch.uniform).log()
        logits_BC = torch.addmm(-log_q_C, user_BD / self.config.temperature, item_CD.T)
        logits_BC.index_put_(batch.hidden, logits_BC.new_tensor(-torch.inf))
        return F.cross_entropy(logits_BC, batch.positive_B), {}


class PeerTraining:
    """Autocast, backward, clipping, AdamW, and row-wise Adagrad over the rows that sparse gradients name."""

    def __init__(self, net: TwoTowerNet, config: TrainConfig) -> None:
        self.net, self.config, self.autocast = net, config, autocast_type(config.precision, CPU)
        self.tables = [table.weight for table in net.bags.tables.values()]
        self.sums = [torch.zeros(len(table)) for table in self.tables]
        own = {id(table) for table in self.tables}
        dense = {name: value for name, value in net.named_parameters() if id(value) not in own}
        self.dense = DenseOptimizer(dense, set(), config.weight_decay)

    def step(self, batch: TowerBatch) -> float:
        """Train on a batch and return the loss."""
        with torch.autocast("cpu", dtype=self.autocast, enabled=self.autocast is not None):
            loss, _ = self.net(batch)
        loss.backward()
        self.dense.clip(self.config.gradient_clip)
        self.dense.step(self.config.learning_rate)
        self.update_tables()
        return loss.item()

    @torch.no_grad()
    def update_tables(self) -> None:
        """Take a step of row-wise Adagrad."""
        for table, sums in zip(self.tables, self.sums, strict=True):
            gradient = table.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
            sums.index_add_(0, rows, values.square().mean(1))
            scale = -self.config.table_learning_rate / (sums[rows].sqrt() + TABLE_EPSILON)
            table.index_add_(0, rows, values * scale.unsqueeze(1))
            table.grad = None


def run(full: bool) -> list[dict[str, Any]]:
    """Measure examples per second; `full` changes nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with process_group(CPU):
            assert_equal_training()
            return [_measure()]
    finally:
        torch.set_num_threads(threads)


def _measure() -> dict[str, Any]:
    config = TrainConfig()
    ours, peer = _both(config)
    batches = [_batch(seed) for seed in range(TIMED_STEPS + 2)]
    seconds: dict[str, list[float]] = {"ours": [], "peer": [], "our tables": [], "peer tables": []}
    for batch in batches:
        values = {**batch.user.bags, **batch.item.bags}
        for name, work in (
            ("ours", lambda batch=batch: ours.step(batch, 1.0, 0.0)),
            ("peer", lambda batch=batch: peer.step(batch)),
            ("our tables", lambda values=values: _tables_only(ours.module.module.bags, values)),
            ("peer tables", lambda values=values: (_tables_only(peer.net.bags, values), peer.update_tables())),
        ):
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    # the first two steps fill caches
    median = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    return {
        "name": NAME,
        "ours": CONFIG.batch_size / median["ours"],
        "peer": CONFIG.batch_size / median["peer"],
        "peer_name": f"PyTorch {torch.__version__}, nn.EmbeddingBag(sparse=True) and row-wise Adagrad, one thread",
        "unit": "examples/s",
        "ratio": median["peer"] / median["ours"],
        "better": "higher",
        "note": (
            f"4 tables of {ROWS:,} rows (64, 32, 32 and 32 wide), 13 pooled lookups (histories of {HISTORY} items in "
            f"windows of {CONFIG.history_windows}, titles of {WORDS} words), towers {CONFIG.hidden}, batch "
            f"{CONFIG.batch_size} + {CONFIG.uniform_negatives} even negatives, "
            f"{'bfloat16' if ours.autocast is not None else 'float32'} products; processor time of one thread; a "
            f"step takes {1e3 * median['ours']:.1f} ms, {median['our tables'] / median['ours']:.0%} of it in tables; "
            f"the peer's {1e3 * median['peer']:.1f} ms, {median['peer tables'] / median['peer']:.0%}"
        ),
    }


def _tables_only(bags: nn.Module, values: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Look up and go backward, the fused update included."""
    torch.stack([pooled.sum() for pooled in bags(values).values()]).sum().backward()


def assert_equal_training() -> None:
    """Raise unless 5 steps in float32 lead both to the same weights."""
    config = TrainConfig(precision="float32")
    ours, peer = _both(config)
    for seed in range(5):
        batch = _batch(seed)
        torch.testing.assert_close(float(ours.step(batch, 1.0, 0.0)[0]), peer.step(batch), rtol=1e-4, atol=1e-4)
    found = {_peer_name(name): value for name, value in full_state(ours.module).items()}
    for name, value in peer.net.state_dict().items():
        distance = (found[name] - value).abs()
        # Adagrad turns the first gradient of a row, however small, into a whole step: near zero rounding decides it.
        assert float(distance.max()) < 0.1 * config.table_learning_rate, name
        assert float((distance > 1e-4).float().mean()) < 1e-5, name


def _peer_name(name: str) -> str:
    return name.replace("bags.collection.embedding_bags.", "bags.tables.")


def _both(config: TrainConfig) -> tuple[ShardedEngine, PeerTraining]:
    """Return both trainings with the same first weights."""
    schema = _schema()
    specs = bag_specs(schema, CONFIG)
    torch.manual_seed(0)
    mine = TwoTowerNet(schema, CONFIG, ROWS, TorchRecBags(*specs))
    theirs = PeerNet(schema, CONFIG, ROWS, PeerBags(*specs))
    names = {
        name.replace("bags.collection.embedding_bags.", "bags.tables."): value
        for name, value in mine.state_dict().items()
    }
    theirs.load_state_dict(names)
    return ShardedEngine(mine, config, CPU), PeerTraining(theirs, config)


def _schema() -> Schema:
    """Return items with id, brand, seller and title, users with a history of ids, brands and sellers."""
    values = np.arange(ROWS, dtype=np.uint64)
    widths = dict.fromkeys(("item_id", "brand", "seller", "title"), CONFIG.feature_dimensions)
    widths["item_id"] = CONFIG.item_dimensions
    item = [Block(name=name, column=name, width=width, bag=f"item:{name}") for name, width in widths.items()]
    user = [
        Block(name=f"history{n}.{name}", column=name, width=widths[name], bag=f"user:history{n}.{name}", window=n)
        for n in CONFIG.history_windows
        for name in CONFIG.history_features
    ]
    return Schema(
        item=tuple(item),
        user=tuple(user),
        tables={name: name for name in widths},
        item_values=dict.fromkeys(widths, values),
        user_values={},
        scales={},
    )


def _batch(seed: int) -> TowerBatch:
    """Return a batch of items drawn from a power law, as a shop's are."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> np.ndarray:
        return rng.zipf(1.2, count) * 7_919 % ROWS

    positives = ids(CONFIG.batch_size)
    candidates = np.unique(np.concatenate([positives, rng.choice(ROWS, CONFIG.uniform_negatives, replace=False)]))
    history = ids(CONFIG.batch_size * HISTORY).reshape(-1, HISTORY)
    bags = {f"item:{name}": _bag(_column(name, candidates), 1) for name in CONFIG.history_features}
    bags["item:title"] = _bag(ids(len(candidates) * WORDS), WORDS)
    user = {
        f"user:history{n}.{name}": _bag(_column(name, history[:, -n:].ravel()), n)
        for n in CONFIG.history_windows
        for name in CONFIG.history_features
    }
    none = torch.zeros(0, dtype=torch.int64)
    return TowerBatch(
        user=TowerInputs(user, np.zeros((CONFIG.batch_size, 0), np.float32)).tensors(),
        item=TowerInputs(bags, np.zeros((len(candidates), 0), np.float32)).tensors(),
        candidates=torch.from_numpy(candidates),
        positive_B=torch.from_numpy(np.searchsorted(candidates, positives)),
        hidden=(none, none),
        in_batch=(torch.from_numpy(np.unique(positives)),),
        uniform=CONFIG.uniform_negatives / ROWS,
    )


def _column(name: str, items: np.ndarray) -> np.ndarray:
    """Return the value of a feature for each item."""
    return items * {"item_id": 1, "brand": 31, "seller": 37}[name] % ROWS


def _bag(values: np.ndarray, length: int) -> Bag:
    return Bag(np.ascontiguousarray(values), offsets_from_lengths(np.full(len(values) // length, length)))
