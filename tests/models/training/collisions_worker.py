"""A stream of changing ids over `CollisionBags`; under `torchrun`, `collisions_worker.py FOLDER` runs all cases."""

import dataclasses
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from models.embedding.spec import BagSpec, TableSpec
from models.training.admission import FREE, mix_ids
from models.training.collision_config import CollisionConfig
from models.training.collisions import CollisionBags
from models.training.config import TrainConfig
from models.training.distributed import process_group, shard
from models.training.export import full_state
from models.training.loop import train
from models.training.processes import rank, world_size

CPU = torch.device("cpu")
ROWS, SCALE = 12, 0.25
OLD = [7, -3, 2**62 + 5, 1 << 40]
"""Fewer than there are rows on any of two processes."""
NEW = [100 * number for number in range(1, 31)]
"""Many more than there are rows."""
CASES = [("rowwise_adagrad", "lru"), ("adagrad", "lfu"), ("adagrad", "distance_lfu"), ("sgd", "distance_lfu")]


def bags(eviction: str = "distance_lfu", interval: int = 2) -> CollisionBags:
    tables = [TableSpec("user", ROWS, 4, init_scale=SCALE)]
    return CollisionBags(
        tables, [BagSpec("user_id", "user", "sum")], CollisionConfig(eviction=eviction, eviction_interval=interval)
    )


def look_up(model: CollisionBags, ids: list[int]) -> torch.Tensor:
    return model({"user_id": (torch.tensor(ids, dtype=torch.int64), torch.arange(len(ids) + 1))})["user_id"]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is seen on this process."""

    old_rows: list[int | None]
    """Rows of those of `OLD` that live here, None for one without a row."""
    old_vectors: torch.Tensor
    """Theirs, after some training: far beyond `SCALE`."""
    still_there: int
    """How many of them still have a row when others came."""
    new_rows: list[int]
    """Rows that passed to some of `NEW`, just now."""
    new_vectors: torch.Tensor
    new_sums: torch.Tensor


def stream(optimizer: str, eviction: str) -> Facts:
    """See `OLD` in four steps, then `NEW`, each eight times a step; look when these were just admitted."""
    model = bags(eviction)
    sharded = shard(model, TrainConfig(table_optimizer=optimizer, row_wise_from_rows=10**6), CPU)
    sharded.set_table_rate(1.0)
    mine = slice(rank(), None, world_size())
    for _ in range(4):
        look_up(model, OLD[mine]).sum().backward()
    rows, weight, _ = local_state(model)
    old = [rows.get(number) for number in living_here(OLD)]
    trained = weight[[row for row in old if row is not None]].clone()
    look_up(model, (NEW * 8)[mine]).sum().backward()
    look_up(model, (NEW * 8)[mine])
    rows, weight, sums = local_state(model)
    new = [rows[number] for number in living_here(NEW) if number in rows]
    return Facts(
        old_rows=old,
        old_vectors=trained,
        still_there=sum(number in rows for number in living_here(OLD)),
        new_rows=new,
        new_vectors=weight[new].clone(),
        new_sums=sums[new].clone() if sums is not None else torch.zeros(0),
    )


def check(facts: Facts) -> None:
    """What must be seen wherever the eviction reset works."""
    assert None not in facts.old_rows
    last = ROWS // world_size() - 1
    assert len(set(facts.old_rows) - {last}) == len(facts.old_rows)
    assert bool((facts.old_vectors.abs() > SCALE).all())
    assert facts.still_there == 0
    assert sorted(facts.new_rows) == list(range(last))
    assert bool((facts.new_vectors.abs() <= SCALE).all())
    assert len({tuple(vector) for vector in facts.new_vectors.tolist()}) == last
    assert bool((facts.new_sums == 0).all())


def local_state(model: CollisionBags) -> tuple[dict[int, int], torch.Tensor, torch.Tensor | None]:
    """Return the rows of mixed ids, vectors and the optimiser's sums that live on this process."""
    collisions = model.collection._managed_collision_collection
    admission = collisions._managed_collision_modules["user"]
    rows = (admission._mch_remapped_ids_mapping - collisions._table_to_offset["user"]).tolist()
    kernel = model.collection._table_to_tbe_and_index["user"][0]
    states = kernel.split_optimizer_states()
    found = zip(admission._mch_sorted_raw_ids.tolist(), rows, strict=True)
    weight = kernel.split_embedding_weights()[0]
    return {number: row for number, row in found if number != FREE}, weight, states[0][0] if states else None


def living_here(ids: list[int]) -> list[int]:
    """Return the mixed ids that belong to this process: processes own equal ranges."""
    width = -(-(2**63) // world_size())
    return [number for number in mix_ids(torch.tensor(ids)).tolist() if number // width == rank()]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bags = bags()
        self.head = nn.Linear(4, 1)

    def forward(self, ids):
        return self.head(look_up(self.bags, ids)).square().mean(), {}


class Source:
    """New users join the stream in every epoch; the stream is the same for any number of processes."""

    steps_per_epoch = 4

    def iterate(self, epoch, start_step):
        for step in range(start_step, self.steps_per_epoch):
            users = NEW[epoch : epoch + 4] * 2
            yield users[step % 2 :: 2][rank() :: world_size()]


def trained(folder: Path, epochs: int) -> tuple[Model, dict[str, torch.Tensor]]:
    """Train, going on from the checkpoint in `folder`; return the model and its whole state."""
    model = Model()
    config = TrainConfig(epochs=epochs, table_learning_rate=0.1, precision="float32", threads=1)
    train(model, Source(), config, checkpoints=folder, seed=1)
    return model, full_state(model)


if __name__ == "__main__":
    with process_group(CPU):
        for case in CASES:
            check(stream(*case))
        state = trained(Path(sys.argv[1]) / "run", epochs=2)[1]
        if rank() == 0:
            save_file(state, Path(sys.argv[1]) / "state.safetensors")
