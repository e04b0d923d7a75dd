"""A model with unpooled and pooled tables; as a program under `torchrun`: `sharding_worker.py FOLDER SCENARIO`."""

import dataclasses
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from models.embedding.bags import PlainBags
from models.embedding.plain import PlainTables
from models.embedding.spec import BagSpec, TableSpec
from models.training.config import TrainConfig
from models.training.export import full_state
from models.training.loop import train
from models.training.processes import barrier, rank, world_size

CPU = torch.device("cpu")
WIDTH = 24
"""Splits into 1, 2 or 3 parts of multiples of 4."""
WORDS = [TableSpec("word", 21, WIDTH, init_scale=0.3)]
TABLES = [TableSpec("item", 31, WIDTH, init_scale=0.3), TableSpec("shop", 10, WIDTH, init_scale=0.3)]
BAGS = [BagSpec("seen", "item", "mean"), BagSpec("bought", "item", "mean"), BagSpec("shops", "shop", "sum")]
ROWS = {"seen": 31, "bought": 31, "shops": 10}
STEPS, GLOBAL_BATCH = 2, 12
PLACEMENTS = {
    "table": {},
    "row": {"row_wise_from_rows": 10},
    "column": {"row_wise_from_rows": 31, "column_wise_from_dimensions": 4},
}
"""By `column`, the longest table is split by rows beside the others."""
OPTIMIZERS = {"adagrad": list(PLACEMENTS), "rowwise_adagrad": ["table", "row"], "sgd": ["row"]}
CASES = [f"{optimizer}-{placement}" for optimizer, placements in OPTIMIZERS.items() for placement in placements]
NEXT = {
    f"{optimizer}-{placement}": f"{optimizer}-{other}"
    for optimizer, placements in OPTIMIZERS.items()
    for placement, other in zip(placements, [*placements[1:], placements[0]], strict=True)
}
"""Each case by the one with the next placement."""


def config_of(case: str, epochs: int) -> TrainConfig:
    optimizer, placement = case.split("-")
    return TrainConfig(
        epochs=epochs,
        learning_rate=0.01,
        table_learning_rate=0.1,
        table_optimizer=optimizer,
        precision="float32",
        log_every_steps=1,
        checkpoint_every_steps=3,
        threads=1,
        **PLACEMENTS[placement],
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    words: torch.Tensor
    bags: dict[str, tuple[torch.Tensor, torch.Tensor]]
    target: torch.Tensor


def jagged(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([0] + [len(row) for row in rows], dtype=torch.int64)
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64), lengths.cumsum(0)


class Source:
    """Each step draws a global batch; process `rank` of `world` takes every world-th row of it."""

    steps_per_epoch = STEPS

    def __init__(self, fail_before: int | None = None) -> None:
        self.fail_before = fail_before

    def iterate(self, epoch, start_step):
        own = slice(rank(), None, world_size())
        for step in range(start_step, STEPS):
            place = epoch * STEPS + step
            if place == self.fail_before:
                raise RuntimeError("no more batches")
            generator = torch.Generator().manual_seed(place)
            words = torch.randint(-1, 21, (GLOBAL_BATCH,), generator=generator)
            bags = {name: [draw(rows, generator) for _ in range(GLOBAL_BATCH)] for name, rows in ROWS.items()}
            target = torch.randn(GLOBAL_BATCH, generator=generator)
            yield Batch(words[own], {name: jagged(rows[own]) for name, rows in bags.items()}, target[own])


def draw(rows: int, generator: torch.Generator) -> list[int]:
    count = int(torch.randint(0, 4, (1,), generator=generator))
    return torch.randint(0, rows, (count,), generator=generator).tolist()


class Both(nn.Module):
    """Predicts a number from a word and three bags."""

    def __init__(self, words: nn.Module, bags: nn.Module) -> None:
        super().__init__()
        self.words, self.bags = words, bags
        self.head = nn.Linear(4 * WIDTH, 1)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.3, 0.3, generator=generator)

    def forward(self, batch):
        vectors = [*self.words({"word": batch.words}).values(), *self.bags(batch.bags).values()]
        error = self.head(torch.tanh(torch.cat(vectors, 1))).squeeze(1) - batch.target
        return error.square().mean(), {}


def plain() -> Both:
    return Both(PlainTables(WORDS), PlainBags(TABLES, BAGS))


def sharded() -> Both:
    from models.training.bags import TorchRecBags
    from models.training.tables import TorchRecTables

    return Both(TorchRecTables(WORDS), TorchRecBags(TABLES, BAGS))


def trained(model: nn.Module, folder: Path, case: str, epochs: int, source: Source | None = None):
    """Train, and return losses and whole weights in one state."""
    report = train(model, source or Source(), config_of(case, epochs), checkpoints=folder, seed=1)
    losses = torch.tensor([loss for _, loss in report.losses], dtype=torch.float64)
    return {**full_state(model), "losses": losses}


def note(state, path: Path) -> None:
    if rank() == 0:
        save_file(state, path)


def two(folder: Path) -> None:
    """Train each case for an epoch; one case for two, straight and interrupted; GenRec; then one process fails."""
    for case in CASES:
        note(trained(sharded(), folder / case, case, epochs=1), folder / f"{case}.safetensors")
    for case in ("adagrad-column", "rowwise_adagrad-row"):
        note(trained(sharded(), folder / f"{case}-straight", case, 2), folder / f"{case}-straight.safetensors")
        try:
            trained(sharded(), folder / f"{case}-broken", case, 2, Source(fail_before=STEPS + 1))
        except RuntimeError:
            barrier()
        note(trained(sharded(), folder / f"{case}-broken", case, 2), folder / f"{case}-broken.safetensors")
    unequal_batches()
    barrier()
    import genrec_worker  # beside this program

    genrec_worker.run(folder / "shop")
    barrier()
    if rank() == 1:
        raise RuntimeError("planted on process 1")
    barrier()


def unequal_batches() -> None:
    """Process r looks up 2 + r rows of `seen` and none of the others, and trains on them: 5 rows in all."""
    from models.training.distributed import shard

    model = sharded()
    weight = model.bags.state_dict()["collection.embedding_bags.item.weight"].clone()
    tables = shard(model, config_of("sgd-row", 1), CPU)
    tables.set_table_rate(1.0)
    rows = [[3, 30]] * (2 + rank())
    pooled = model.bags({"seen": jagged(rows), "bought": jagged([]), "shops": jagged([])})
    expected = weight[[3, 30]].mean(0).expand(len(rows), WIDTH)
    torch.testing.assert_close(pooled["seen"], expected)
    pooled["seen"].sum().backward()
    # each of 5 rows has half a share in both ids; processes average their gradients
    weight[[3, 30]] -= 5 / 2 / 2
    state = full_state(model)
    if rank() == 0:
        torch.testing.assert_close(state["bags.collection.embedding_bags.item.weight"], weight)


def go_on(folder: Path) -> None:
    """Go on for an epoch from every checkpoint of two processes, under the placement after its own."""
    for case, other in NEXT.items():
        place = folder / f"{case}-to-{other}"
        if rank() == 0:
            shutil.copytree(folder / case, place)
        barrier()
        note(trained(sharded(), place, other, epochs=2), place.with_suffix(".safetensors"))


if __name__ == "__main__":
    from models.training.distributed import process_group

    with process_group(CPU):
        {"two": two, "go_on": go_on}[sys.argv[2]](Path(sys.argv[1]))
