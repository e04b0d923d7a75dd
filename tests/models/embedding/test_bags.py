"""One conformance suite for both forms of the bags.

`item` has rows enough to be split, `shop` lives whole: TorchRec's own means go wrong beside each other.
"""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from models.embedding.bags import PlainBags
from models.embedding.spec import BagSpec, TableSpec
from models.training.optimizers import TABLE_OPTIMIZERS

SPECS = [TableSpec("item", rows=5, dimensions=4), TableSpec("shop", rows=3, dimensions=8)]
BAGS = [BagSpec("seen", "item", "mean"), BagSpec("shops", "shop", "sum"), BagSpec("user.bought", "item", "mean")]
CPU = torch.device("cpu")


TORCHREC = [pytest.param(name, marks=pytest.mark.integration) for name in ("torchrec", "sharded")]


@pytest.fixture(params=["plain", *TORCHREC])
def bags(request):
    if request.param == "plain":
        yield _filled(PlainBags(SPECS, BAGS))
        return
    from models.training.bags import TorchRecBags
    from models.training.config import TrainConfig
    from models.training.distributed import process_group, shard

    model = _filled(TorchRecBags(SPECS, BAGS))
    if request.param == "torchrec":
        yield model
        return
    with process_group(CPU):
        shard(model, TrainConfig(row_wise_from_rows=4), CPU)
        yield model


def _filled(bags):
    """Row r of `item` is [r, -r, r, -r], row r of `shop` is 8 times 10^r."""
    rows = torch.arange(5.0)
    bags.load_state_dict(
        {
            "collection.embedding_bags.item.weight": torch.stack([rows, -rows] * 2, 1),
            "collection.embedding_bags.shop.weight": (10 ** rows[:3]).unsqueeze(1).expand(3, 8).contiguous(),
        }
    )
    return bags


def jagged(*rows):
    lengths = torch.tensor([0] + [len(row) for row in rows], dtype=torch.int64)
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64), lengths.cumsum(0)


def first_numbers(pooled_RD):
    return [row[0] for row in pooled_RD.tolist()]


def test_means_and_sums_of_rows_and_zeros_of_empty_ones(bags):
    pooled = bags({"seen": jagged([4, 0], [], [3]), "shops": jagged([], [0, 2], [1, 1]), "user.bought": jagged([2])})
    assert pooled["seen"].tolist() == [[2, -2, 2, -2], [0, 0, 0, 0], [3, -3, 3, -3]]
    assert first_numbers(pooled["shops"]) == [0, 101, 20]
    assert list(pooled) == ["seen", "shops", "user.bought"]
    assert [tuple(part.shape) for part in pooled.values()] == [(3, 4), (3, 8), (1, 4)]


def test_bags_of_one_table_see_the_same_rows_in_batches_of_their_own_size(bags):
    pooled = bags({"seen": jagged([4]), "shops": jagged(), "user.bought": jagged([], [4, 2], [4], [0])})
    assert first_numbers(pooled["seen"]) == [4]
    assert first_numbers(pooled["user.bought"]) == [0, 3, 4, 0]
    assert pooled["shops"].shape == (0, 8)


def test_an_empty_batch(bags):
    pooled = bags(dict.fromkeys(["seen", "shops", "user.bought"], jagged()))
    assert [tuple(part.shape) for part in pooled.values()] == [(0, 4), (0, 8), (0, 4)]


@pytest.mark.parametrize("wrong", [5, -1])
def test_an_id_out_of_range_names_bag_table_and_range(bags, wrong):
    with pytest.raises(IndexError, match=f"bag 'user.bought' of table 'item': expected 0 <= id < 5, got {wrong}"):
        bags({"seen": jagged([0]), "shops": jagged([0]), "user.bought": jagged([0, wrong])})


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (
            (torch.zeros(2, dtype=torch.int32), torch.tensor([0, 2])),
            r"ids of bag 'seen': expected int64 of shape",
        ),
        ((torch.zeros(2, dtype=torch.int64), torch.tensor([0.0, 2.0])), r"offsets of bag 'seen': expected int64"),
        ((torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1])), r"rise from 0 to 2, the number of ids, got \[0, 1"),
        ((torch.zeros(2, dtype=torch.int64), torch.tensor([0, 3, 2])), r"rise from 0 to 2.*got \[0, 3, 2\]"),
        ((torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)), r"rise from 0 to 0.*got \[\]"),
    ],
)
def test_bags_must_be_well_formed(bags, seen, told):
    with pytest.raises(ValueError, match=told):
        bags({"seen": seen, "shops": jagged([0]), "user.bought": jagged([0])})


def test_every_bag_must_be_given_and_no_other(bags):
    with pytest.raises(ValueError, match=r"missing \['shops', 'user.bought'\], unknown \['sold'\]"):
        bags({"seen": jagged([0]), "sold": jagged([0])})


def test_state_dict_keys_are_the_interface(bags):
    assert list(bags.state_dict()) == ["collection.embedding_bags.item.weight", "collection.embedding_bags.shop.weight"]


@pytest.mark.parametrize("form", ["plain", "torchrec"])
def test_first_weights_are_uniform_in_the_scale_of_their_table(form):
    from models.training.bags import TorchRecBags

    specs = [TableSpec("item", rows=100, dimensions=8), TableSpec("shop", rows=100, dimensions=8, init_scale=0.5)]
    bags = [BagSpec("seen", "item"), BagSpec("shops", "shop")]
    torch.manual_seed(3)
    weights = (PlainBags if form == "plain" else TorchRecBags)(specs, bags).state_dict().values()
    for weight, scale in zip(weights, (0.1, 0.5), strict=True):
        assert 0.99 * scale < weight.max() <= scale
        assert 0.99 * scale < -weight.min() <= scale


def test_plain_gradients_reach_only_the_rows_present():
    bags = _filled(PlainBags(SPECS, BAGS))
    pooled = bags({"seen": jagged([1, 1, 3, 3]), "shops": jagged(), "user.bought": jagged([1])})
    (pooled["seen"].sum() + pooled["user.bought"].sum()).backward()
    gradient = bags.get_parameter("collection.embedding_bags.item.weight").grad
    assert gradient.is_sparse
    assert gradient.to_dense()[:, 0].tolist() == [0, 1.5, 0, 0.5, 0]


JAGGED = st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=5)


@given(seen=JAGGED, bought=JAGGED, pooling=st.sampled_from(["mean", "sum"]))
@settings(max_examples=25, deadline=None)
def test_pooling_is_what_a_loop_would_do(seen, bought, pooling):
    from models.training.bags import TorchRecBags

    specs = [BagSpec("seen", "item", pooling), BagSpec("bought", "item", pooling)]
    plain, torchrec = (form(SPECS[:1], specs) for form in (PlainBags, TorchRecBags))
    torchrec.load_state_dict(plain.state_dict())
    weight = plain.get_parameter("collection.embedding_bags.item.weight")
    values = {"seen": jagged(*seen), "bought": jagged(*bought)}
    for name, rows in (("seen", seen), ("bought", bought)):
        expected = torch.zeros(len(rows), 4)
        for place, row in enumerate(rows):
            for number in row:
                expected[place] += weight[number].detach() / (len(row) if pooling == "mean" else 1)
        torch.testing.assert_close(plain(values)[name].detach(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torchrec(values)[name].detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_fused_and_plain_optimisers_take_the_same_steps(optimizer):
    from models.training.bags import TorchRecBags
    from models.training.config import TrainConfig
    from models.training.distributed import process_group, shard

    config = TrainConfig(table_optimizer=optimizer, table_learning_rate=0.1, row_wise_from_rows=4)
    plain, torchrec = PlainBags(SPECS, BAGS), TorchRecBags(SPECS, BAGS)
    torchrec.load_state_dict(plain.state_dict())
    steps = TABLE_OPTIMIZERS[optimizer](dict(plain.named_parameters()))
    generator = torch.Generator().manual_seed(0)
    with process_group(CPU):
        shard(torchrec, config, CPU)
        for _ in range(5):
            values = {
                bag.name: jagged(*(draw(generator, rows) for _ in range(6)))
                for bag, rows in zip(BAGS, (5, 3, 5), strict=True)
            }
            for form in (plain, torchrec):
                pooled = form(values)
                torch.cat([part.square() - part for part in pooled.values()], 1).sum().backward()
            steps.step(0.1)
        trained = {name: shards.local_tensor() for name, shards in torchrec.state_dict().items()}
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-6)


def draw(generator, rows):
    return torch.randint(0, rows, (int(torch.randint(0, 4, (1,), generator=generator)),), generator=generator).tolist()
