"""Trainings of the two-tower model on a small shop; as a program, run by `torchrun`: `two_tower_worker.py FOLDER`."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import nn

from features.schemas import SEQUENCES, VALIDATION
from features.workspace import Workspace
from models.training.config import TrainConfig
from models.training.loop import train
from models.training.two_tower import train_two_tower
from models.two_tower.towers import TwoTowerNet, bag_specs

PATH = Path(__file__).parents[1] / "two_tower" / "two_tower_cases.py"
SPEC = importlib.util.spec_from_file_location("two_tower_cases", PATH)
shop = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shop)

CONFIG = dataclasses.replace(shop.CONFIG, batch_size=16, ssl_weight=0.3)
TRAIN_CONFIG = TrainConfig(
    epochs=12,
    learning_rate=0.01,
    table_learning_rate=0.1,
    precision="float32",
    row_wise_from_rows=10,
    log_every_steps=5,
    checkpoint_every_steps=7,
    evaluate_every_epochs=4,
    threads=1,
)
SHORT = dataclasses.replace(TRAIN_CONFIG, epochs=1)


def make_workspace(root: Path, validation: bool = True) -> Workspace:
    """User u's page p holds item u + 5 p, so every item has one successor; the page after the last validates."""
    workspace = Workspace(root)
    commit(workspace, "clean_items", shop.item_table())
    rows = [shop.sequence_row(user) for user in range(shop.USERS)]
    if validation:
        pages = range(shop.PAGES, shop.PAGES + 1)
        rows += [shop.sequence_row(user, VALIDATION, pages) for user in range(shop.USERS)]
    commit(workspace, "sequences", pa.Table.from_pylist(rows, schema=SEQUENCES))
    return workspace


def commit(workspace: Workspace, name: str, rows: pa.Table) -> None:
    table = workspace.table(name)
    table.commit([table.write_part(rows, shard=0)])


def make_net(config, bags=None):
    """Return a net, of equal weights for every kind of `bags`."""
    _, _, schema, _ = shop.make_shop(config)
    torch.manual_seed(5)
    plain = TwoTowerNet(schema, config, shop.ITEM_COUNT)
    if bags is None:
        return plain
    net = TwoTowerNet(schema, config, shop.ITEM_COUNT, bags(*bag_specs(schema, config)))
    net.load_state_dict(plain.state_dict())
    return net


class BothShares(nn.Module):
    """What two processes do, in one: the mean of the losses of their batches."""

    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def forward(self, batches):
        for items in batches.parts[0].in_batch:
            self.net.frequency.update(items)
        losses = [self.net.loss(batch)[0] for batch in batches.parts]
        return sum(losses) / len(losses), {}


class BothSources:
    """The batches of both processes together."""

    def __init__(self, config) -> None:
        self.sources = [shop.make_source(config, rank=rank, world_size=2) for rank in range(2)]
        self.steps_per_epoch = self.sources[0].steps_per_epoch

    def iterate(self, epoch, start_step):
        for parts in zip(*(source.iterate(epoch, start_step) for source in self.sources), strict=True):
            yield Parts(parts)


class Parts:
    def __init__(self, parts) -> None:
        self.parts = parts


def two(folder: Path) -> None:
    """Train on two processes: the bare net, then a whole published run."""
    from models.training.bags import TorchRecBags
    from models.training.distributed import process_group
    from models.training.export import full_state
    from models.training.processes import rank, world_size

    with process_group(torch.device("cpu")):
        net = make_net(CONFIG, TorchRecBags)
        source = shop.make_source(CONFIG, rank=rank(), world_size=world_size())
        train(net, source, SHORT, checkpoints=folder / "two", seed=1)
        save_file({"bucket": net.frequency.gap_MH}, folder / f"frequency{rank()}.safetensors")
        state = full_state(net)
        if rank() == 0:
            save_file(state, folder / "two.safetensors")
        train_two_tower(Workspace(folder / "workspace"), CONFIG, TRAIN_CONFIG, seed=3, track=False)


if __name__ == "__main__":
    two(Path(sys.argv[1]))
