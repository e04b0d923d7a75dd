"""A toy model and its data; as a program, trains it in a process of its own: `worker.py FOLDER SCENARIO`."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from models.embedding.plain import PlainTables
from models.embedding.spec import TableSpec
from models.training.config import TrainConfig
from models.training.loop import train

SPECS = [TableSpec("item", rows=21, dimensions=4), TableSpec("user", rows=5, dimensions=4)]
CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=3,
    learning_rate=0.01,
    table_learning_rate=0.1,
    precision="float32",
    row_wise_from_rows=10,
    log_every_steps=1,
    checkpoint_every_seconds=None,
    checkpoint_every_steps=4,
    threads=1,
    monitor="quality",
)
GLOBAL_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Batch:
    item: torch.Tensor
    user: torch.Tensor
    target: torch.Tensor

    @property
    def size(self) -> int:
        return len(self.target)


class Source:
    """Each step draws a global batch; process `rank` of `world` takes every world-th example of it."""

    def __init__(self, rank: int = 0, world: int = 1, steps: int = 5, kill_before: int | None = None) -> None:
        self.steps_per_epoch, self.rank, self.world, self.kill_before = steps, rank, world, kill_before

    def iterate(self, epoch, start_step):
        for step in range(start_step, self.steps_per_epoch):
            place = epoch * self.steps_per_epoch + step
            if place == self.kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            generator = torch.Generator().manual_seed(place)
            item = torch.randint(-1, 21, (GLOBAL_BATCH,), generator=generator)
            user = torch.randint(0, 5, (GLOBAL_BATCH,), generator=generator)
            own = slice(self.rank, None, self.world)
            yield Batch(item[own], user[own], ((item - 10) / 10 + user / 5)[own])


class Toy(nn.Module):
    """Predicts a number planted in the ids: (item - 10) / 10 + user / 5."""

    def __init__(self, tables: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.tables = tables
        self.hidden = nn.Linear(8, 16)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, 1)
        with torch.no_grad():
            for weight in tables.parameters():
                weight.uniform_(-0.3, 0.3)

    def forward(self, batch):
        vectors = self.tables({"item": batch.item, "user": batch.user})
        hidden = self.dropout(torch.tanh(self.hidden(torch.cat([vectors["item"], vectors["user"]], 1))))
        error = self.head(hidden).squeeze(1) - batch.target
        return error.square().mean(), {"absolute_error": error.abs().mean().detach()}


def plain(dropout: float = 0.0) -> Toy:
    return Toy(PlainTables(SPECS), dropout)


def sharded(dropout: float = 0.0) -> Toy:
    from models.training.tables import TorchRecTables

    return Toy(TorchRecTables(SPECS), dropout)


def killed(folder: Path) -> None:
    """Die by SIGKILL before step 11; the last checkpoint is that of step 10, the end of an epoch is step 10 too."""
    from models.training.distributed import process_group

    with process_group(CPU):
        config = dataclasses.replace(CONFIG, ema_decay=0.9, checkpoint_every_steps=3)
        train(sharded(dropout=0.2), Source(kill_before=11), config, checkpoints=folder / "killed", seed=1)


def two(folder: Path) -> None:
    """Run by `torchrun` with two processes: train alone, then go on from a checkpoint of one process."""
    from models.training.distributed import process_group
    from models.training.export import full_state
    from models.training.processes import rank, world_size

    with process_group(CPU):
        source = Source(rank(), world_size())
        for name in ("two", "one_to_two"):
            model = sharded()
            told: list[str] = []
            report = train(model, source, CONFIG, checkpoints=folder / name, seed=1, progress=told.append)
            state = full_state(model)
            if rank() == 0:
                losses = torch.tensor([loss for _, loss in report.losses], dtype=torch.float64)
                save_file({**state, "losses": losses}, folder / f"{name}.safetensors")
                (folder / f"{name}.txt").write_text("\n".join(told + report.lines()))
        uneven = Source(rank(), world_size(), steps=5 + rank())
        try:
            train(sharded(), uneven, CONFIG, checkpoints=folder / "uneven", seed=1)
        except ValueError as error:
            (folder / f"uneven{rank()}.txt").write_text(str(error))


if __name__ == "__main__":
    {"killed": killed, "two": two}[sys.argv[2]](Path(sys.argv[1]))
