import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.distributed import sharding_plan as plans
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.types import ShardingPlan

from models.training.distributed import FirstStepCheck, check_plan, plan_tables, process_group, shard
from models.training.export import full_state

CPU = torch.device("cpu")


def test_small_tables_go_to_the_emptiest_process_and_large_ones_to_all(worker):
    plan = plan_tables(
        worker.sharded(), EmbeddingCollectionSharder(), row_wise_from_rows=100, world_size=2, device=CPU
    ).plan["tables.collection"]
    assert {name: (place.sharding_type, place.ranks) for name, place in plan.items()} == {
        "item": ("table_wise", [0]),
        "user": ("table_wise", [1]),
    }
    split = plan_tables(
        worker.sharded(), EmbeddingCollectionSharder(), row_wise_from_rows=5, world_size=2, device=CPU
    ).plan["tables.collection"]
    assert {place.sharding_type for place in split.values()} == {"row_wise"}


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
    with pytest.raises(ValueError, match=r"EXACT_ROWWISE_ADAGRAD on CPU, got ADAM\n.*'item' has no placement"):
        check_plan(ShardingPlan(plan={}), model, EmbOptimType.ADAM, CPU)


def test_sharding_keeps_the_weights(worker):
    model = worker.sharded()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with process_group(CPU):
        shard(model, learning_rate=0.1, row_wise_from_rows=10, device=CPU)
        after = full_state(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_the_first_step_tells_whether_tables_train(worker, rate):
    batch = next(worker.Source().iterate(0, 0))
    with process_group(CPU):
        model = worker.sharded()
        sharded = shard(model, learning_rate=rate, row_wise_from_rows=10, device=CPU)
        check = FirstStepCheck(model)
        sharded.module(batch)[0].backward()
        if rate:
            check.finish()
        else:
            with pytest.raises(RuntimeError, match=r"tables tables.collection.item, tables.collection.user got grad"):
                check.finish()


def test_a_new_rate_counts_from_the_next_backward_pass(worker):
    batch = next(worker.Source().iterate(0, 0))
    with process_group(CPU):
        model = worker.sharded()
        sharded = shard(model, learning_rate=0.1, row_wise_from_rows=10, device=CPU)
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
