"""One conformance suite for both forms of the tables."""

import pytest
import torch

from models.embedding.plain import PlainTables
from models.embedding.spec import TableSpec

SPECS = [TableSpec("item", rows=5, dimensions=4), TableSpec("user", rows=3, dimensions=4)]


TORCHREC = [pytest.param(name, marks=pytest.mark.integration) for name in ("torchrec", "sharded")]


@pytest.fixture(params=["plain", *TORCHREC])
def tables(request):
    if request.param == "plain":
        yield _filled(PlainTables(SPECS))
        return
    from models.training.config import TrainConfig
    from models.training.distributed import process_group, shard
    from models.training.tables import TorchRecTables

    model = _filled(TorchRecTables(SPECS))
    if request.param == "torchrec":
        yield model
        return
    device = torch.device("cpu")
    with process_group(device):
        shard(model, TrainConfig(table_learning_rate=0.1, row_wise_from_rows=4), device)
        yield model


def _filled(tables):
    """Row r of `item` is [r, -r, r, -r], row r of `user` is [10 r, 1, 10 r, 1]."""
    rows = torch.arange(5.0)
    tables.load_state_dict(
        {
            "collection.embeddings.item.weight": torch.stack([rows, -rows] * 2, 1),
            "collection.embeddings.user.weight": torch.stack([10 * rows[:3], torch.ones(3)] * 2, 1),
        }
    )
    return tables


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_looks_up_rows_in_the_order_of_the_ids(tables):
    found = tables({"item": ids(4, 0, 4), "user": ids(2)})
    assert found["item"].tolist() == [[4, -4, 4, -4], [0, 0, 0, 0], [4, -4, 4, -4]]
    assert found["user"].tolist() == [[20, 1, 20, 1]]


def test_absent_ids_are_zero(tables):
    found = tables({"item": ids(-1, 3, -1), "user": ids(-7)})
    assert found["item"].tolist() == [[0, 0, 0, 0], [3, -3, 3, -3], [0, 0, 0, 0]]
    assert found["user"].tolist() == [[0, 0, 0, 0]]


def test_a_table_without_ids_gives_no_vectors(tables):
    found = tables({"item": ids(), "user": ids(1)})
    assert found["item"].shape == (0, 4)
    assert found["user"].tolist() == [[10, 1, 10, 1]]
    assert [part.shape for part in tables({"item": ids(), "user": ids()}).values()] == [(0, 4), (0, 4)]


def test_an_id_out_of_range_names_table_id_and_rows(tables):
    with pytest.raises(IndexError, match="table 'user': id 3 is out of range, the table has 3 rows"):
        tables({"item": ids(0), "user": ids(0, 3)})


def test_every_table_must_get_ids_of_the_right_kind(tables):
    with pytest.raises(ValueError, match=r"one entry for each table \['item', 'user'\], got \['item'\]"):
        tables({"item": ids(0)})
    with pytest.raises(ValueError, match=r"'user': expected int64 of shape \[n\], got torch.int32 \(1,\)"):
        tables({"item": ids(0), "user": ids(0).int()})


def test_state_dict_keys_are_the_interface(tables):
    assert list(tables.state_dict()) == ["collection.embeddings.item.weight", "collection.embeddings.user.weight"]


def test_plain_gradients_reach_only_the_rows_present():
    tables = _filled(PlainTables(SPECS))
    tables({"item": ids(1, 1, -1), "user": ids()})["item"].sum().backward()
    gradient = tables.get_parameter("collection.embeddings.item.weight").grad.to_dense()
    assert gradient.tolist() == [[0] * 4, [2] * 4, [0] * 4, [0] * 4, [0] * 4]


def test_initial_weights_are_within_one_over_root_rows():
    weight = PlainTables([TableSpec("item", rows=100, dimensions=8)]).get_parameter("collection.embeddings.item.weight")
    assert 0.09 < weight.abs().max() <= 0.1


@pytest.mark.parametrize(
    ("specs", "told"),
    [
        ([], "got none"),
        ([TableSpec("a", 2, 4), TableSpec("a", 3, 4)], r"got a \[2, 4\], a \[3, 4\]"),
        ([TableSpec("a", 2, 4), TableSpec("b", 3, 8)], r"equal dimensions, got a \[2, 4\], b \[3, 8\]"),
    ],
)
def test_specs_that_cannot_share_a_collection(specs, told):
    with pytest.raises(ValueError, match=told):
        PlainTables(specs)


@pytest.mark.parametrize(("rows", "dimensions"), [(0, 4), (3, 6), (3, 0)])
def test_impossible_shapes(rows, dimensions):
    with pytest.raises(
        ValueError, match=f"multiple of 4 as dimensions, got name 'a', rows {rows}, dimensions {dimensions}"
    ):
        TableSpec("a", rows=rows, dimensions=dimensions)
