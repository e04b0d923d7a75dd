import dataclasses

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.distributed import sharding_plan as plans
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.types import ShardingPlan

from models.embedding.spec import BagSpec, TableSpec
from models.training.bags import TorchRecBags
from models.training.config import TrainConfig
from models.training.distributed import process_group, shard
from models.training.export import full_state
from models.training.first_step import FirstStepCheck
from models.training.plan import check_plan, describe_plan, plan_tables, sharders

CPU = torch.device("cpu")
ADAGRAD = EmbOptimType.EXACT_ADAGRAD
CONFIG = TrainConfig(row_wise_from_rows=100, column_wise_from_dimensions=16, table_optimizer="adagrad")


def plan(model, world_size=2, **options):
    config = dataclasses.replace(CONFIG, **options)
    return plan_tables(model, sharders(ADAGRAD, 0.1), config, world_size=world_size, device=CPU)


def bags(*tables):
    return TorchRecBags(tables, [BagSpec(f"{table.name} seen", table.name) for table in tables])


def test_small_tables_go_to_the_emptiest_process_and_large_ones_to_all(worker):
    placed = plan(worker.sharded()).plan["tables.collection"]
    assert {name: (place.sharding_type, place.ranks) for name, place in placed.items()} == {
        "item": ("table_wise", [0]),
        "user": ("table_wise", [1]),
    }
    split = plan(worker.sharded(), row_wise_from_rows=5).plan["tables.collection"]
    assert {place.sharding_type for place in split.values()} == {"row_wise"}


def test_rows_then_columns_are_split_and_every_table_is_told():
    model = bags(TableSpec("long", 100, 4), TableSpec("wide", 99, 16), TableSpec("small", 99, 12))
    placed = plan(model)
    assert {name: place.sharding_type for name, place in placed.plan["collection"].items()} == {
        "long": "row_wise",
        "wide": "column_wise",
        "small": "table_wise",
    }
    assert describe_plan(placed, model)[1] == "table wide: 99 x 16 (0.0 MB), column_wise on [0, 1], kernel fused"


def test_one_process_splits_no_rows():
    placed = plan(bags(TableSpec("long", 100, 4)), world_size=1)
    assert placed.plan["collection"]["long"].sharding_type == "table_wise"


@pytest.mark.parametrize(
    ("table", "world_size", "told"),
    [
        (
            TableSpec("wide", 99, 20),
            2,
            "'wide': expected a multiple of 8 as dimensions to split them over 2.*got 20",
        ),
        (TableSpec("long", 101, 4), 102, "'long': 101 rows in 102 shards of 1 leave a process without any"),
        (TableSpec("long", 105, 4), 50, "'long': 105 rows in 50 shards of 3 leave a process without any"),
    ],
)
def test_tables_that_do_not_split_over_so_many_processes(table, world_size, told):
    with pytest.raises(ValueError, match=told):
        plan(bags(table), world_size)


def test_a_plan_that_would_not_train_is_refused(worker):
    model = worker.sharded()
    dense = plans.construct_module_sharding_plan(
        model.tables.collection,
        {"item": plans.row_wise(), "user": plans.row_wise()},
        sharder=EmbeddingCollectionSharder(),
        local_size=1,
        world_size=1,
        device_type="cpu",
    )
    with pytest.raises(ValueError, match="table 'item': expected kernel 'fused', got 'dense'"):
        check_plan(ShardingPlan(plan={"tables.collection": dense}), model, EmbOptimType.EXACT_SGD, CPU)
    with pytest.raises(ValueError, match=r"EXACT_SGD on CPU, got ADAM\n.*'item' has no placement"):
        check_plan(ShardingPlan(plan={}), model, EmbOptimType.ADAM, CPU)


def test_row_wise_sums_of_columns_are_refused():
    """Each shard of columns would keep sums of its own."""
    model = bags(TableSpec("wide", 99, 16))
    with pytest.raises(ValueError, match=r"'wide' is split by columns.*use table_optimizer=adagrad"):
        check_plan(plan(model), model, EmbOptimType.EXACT_ROWWISE_ADAGRAD, CPU)


def test_sharding_keeps_the_weights(sharding_worker):
    model = sharding_worker.sharded()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with process_group(CPU):
        shard(model, TrainConfig(row_wise_from_rows=21), CPU)
        after = full_state(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_the_first_step_tells_whether_tables_and_bags_train(sharding_worker, rate):
    batch = next(sharding_worker.Source().iterate(0, 0))
    with process_group(CPU):
        model = sharding_worker.sharded()
        sharded = shard(model, TrainConfig(row_wise_from_rows=21), CPU)
        sharded.set_table_rate(rate)
        check = FirstStepCheck(model)
        sharded.module(batch)[0].backward()
        if rate:
            check.finish()
        else:
            stuck = "words.collection.word, bags.collection.item, bags.collection.shop"
            with pytest.raises(
                RuntimeError, match=f"tables {stuck} got gradients in the first step but did not change"
            ):
                check.finish()


def test_a_new_rate_counts_from_the_next_backward_pass(worker):
    batch = next(worker.Source().iterate(0, 0))
    with process_group(CPU):
        model = worker.sharded()
        sharded = shard(model, TrainConfig(row_wise_from_rows=10), CPU)
        weight = dict(model.tables.named_parameters())["collection.embeddings.item.weight"]
        before = weight.detach().clone()
        sharded.set_table_rate(0.0)
        sharded.module(batch)[0].backward()
        assert torch.equal(before, weight)


def test_process_groups_nest_and_end():
    with process_group(CPU):
        with process_group(CPU):
            assert dist.get_world_size() == 1
        assert dist.is_initialized()
    assert not dist.is_initialized()


@pytest.mark.parametrize(("error", "traceback"), [(RuntimeError("a bug"), True), (ValueError("a mistake"), False)])
def test_a_failed_process_says_why_and_shows_a_traceback_where_no_user_made_a_mistake(
    monkeypatch, caplog, error, traceback
):
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(type(error)), process_group(CPU):
        raise error
    (record,) = caplog.records
    assert record.getMessage() == f"process 0 of 2 failed: {error}"
    assert (record.exc_info is not None) == traceback
