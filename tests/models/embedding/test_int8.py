import copy
import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load, save
from torch import nn

from models.embedding.bags import PlainBags
from models.embedding.int8 import Int8Bags, Int8Tables, decode_rows, encode_rows, quantize, sum_rows
from models.embedding.plain import PlainTables
from models.embedding.spec import BagSpec, TableSpec

TABLES = [TableSpec("item", rows=50, dimensions=16), TableSpec("shop", rows=7, dimensions=8)]
BAGS = [BagSpec("seen", "item", "mean"), BagSpec("bought", "item", "mean"), BagSpec("shops", "shop", "sum")]
ROWS = {"seen": 50, "bought": 50, "shops": 7}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = PlainTables([TableSpec("word", rows=20, dimensions=4)])
        self.bags = PlainBags(TABLES, BAGS)
        self.same_words = self.words
        self.head = nn.Linear(4, 6)

    def forward(self, ids):
        return self.head(self.words({"word": ids})["word"])


@st.composite
def jagged(draw, rows):
    lengths = draw(st.lists(st.integers(0, 5), max_size=6))
    ids = draw(st.lists(st.integers(0, rows - 1), min_size=sum(lengths), max_size=sum(lengths)))
    return torch.tensor(ids, dtype=torch.int64), torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def decoded(weight: torch.Tensor) -> torch.Tensor:
    return decode_rows(encode_rows(weight))


def test_a_row_is_its_codes_its_scale_and_its_bias():
    """From -1 to 1.55 there are 255 steps of 0.01."""
    codes = encode_rows(torch.tensor([[-1.0, 1.55, 0.0, 0.004], [7.0, 7.0, 7.0, 7.0]]))
    assert codes[0, :4].tolist() == [0, 255, 100, 100]
    torch.testing.assert_close(codes[0, 4:].view(torch.float32), torch.tensor([0.01, -1.0]))
    torch.testing.assert_close(decode_rows(codes), torch.tensor([[-1.0, 1.55, 0.0, 0.0], [7.0] * 4]))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 40), st.floats(1e-6, 1e6), st.integers(0, 2**32))
def test_a_number_is_off_by_half_a_step_of_its_row_at_most(rows, quads, scale, seed):
    weight = torch.randn(rows, 4 * quads, generator=torch.Generator().manual_seed(seed)) * scale
    step = (weight.amax(1) - weight.amin(1)).unsqueeze(1) / 255
    rounding = 1e-8 + 1e-6 * weight.abs().amax()
    assert bool(((decoded(weight) - weight).abs() <= step / 2 + rounding).all())


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(0, 2**32))
def test_the_kernel_adds_up_decoded_rows(data, seed):
    codes = encode_rows(torch.randn(9, 12, generator=torch.Generator().manual_seed(seed)))
    ids, offsets = data.draw(jagged(9))
    rows = [decode_rows(codes)[ids[start:end]].sum(0) for start, end in itertools.pairwise(offsets)]
    expected = torch.stack(rows) if rows else torch.empty(0, 12)
    torch.testing.assert_close(sum_rows(codes, ids, offsets), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.fixed_dictionaries({name: jagged(rows) for name, rows in ROWS.items()}))
def test_bags_pool_as_plain_ones_with_the_decoded_weights(values):
    plain = PlainBags(TABLES, BAGS)
    holder = nn.ModuleDict({"bags": copy.deepcopy(plain)})
    quantize(holder)
    with torch.no_grad():
        for weight in plain.parameters():
            weight.copy_(decoded(weight))
        expected = plain(values)
    pooled = holder["bags"](values)
    assert pooled.keys() == expected.keys()
    for name, vectors in expected.items():
        torch.testing.assert_close(pooled[name], vectors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ids", [[3, -1, 19, 3], [-1], []], ids=["some", "absent", "none"])
def test_tables_look_up_as_plain_ones_with_the_decoded_weights(ids):
    model = Model()
    weight = model.words.collection.get_parameter("embeddings.word.weight").detach().clone()
    quantize(model)
    expected = [decoded(weight)[number].tolist() if number >= 0 else [0.0] * 4 for number in ids]
    found = model.words({"word": torch.tensor(ids, dtype=torch.int64)})["word"]
    torch.testing.assert_close(found, torch.tensor(expected).reshape(-1, 4), rtol=1e-6, atol=1e-7)


def test_ids_out_of_range_are_refused_as_in_plain_tables():
    model = Model()
    quantize(model)
    with pytest.raises(IndexError, match="table 'word': id 20 is out of range, the table has 20 rows"):
        model.words({"word": torch.tensor([20])})
    wrong = {name: (torch.tensor([7]), torch.tensor([0, 1])) for name in ROWS}
    with pytest.raises(IndexError, match="bag 'shops' of table 'shop': expected 0 <= id < 7, got 7"):
        model.bags(wrong)


def test_a_model_is_quantised_in_place_and_what_it_shares_stays_shared():
    model = Model()
    largest = float(
        (
            decoded(model.words.state_dict()["collection.embeddings.word.weight"]).sub(
                model.words.state_dict()["collection.embeddings.word.weight"]
            )
        )
        .abs()
        .max()
    )
    report = quantize(model)
    assert isinstance(model.words, Int8Tables)
    assert model.same_words is model.words
    assert isinstance(model.bags, Int8Bags)
    word, item, shop = report.tables
    assert (word.path, word.rows, word.dimensions) == ("words.collection.embeddings.word.weight", 20, 4)
    assert word.largest_error == largest
    assert [(table.bytes_before, table.bytes_after) for table in (word, item, shop)] == [
        (20 * 4 * 4, 20 * (4 + 8)),
        (50 * 16 * 4, 50 * (16 + 8)),
        (7 * 8 * 4, 7 * (8 + 8)),
    ]
    assert report.lines()[-1] == "int8 tables: 3,744 -> 1,552 bytes, 2.41 times smaller"
    assert not list(model.bags.parameters())


def test_codes_are_saved_and_loaded_as_safetensors():
    model, fresh = Model(), Model()
    quantize(model)
    quantize(fresh)
    state = load(save({name: value for name, value in model.state_dict().items() if "same_" not in name}))
    assert state["bags.collection.embedding_bags.item.codes"].dtype == torch.uint8
    fresh.load_state_dict(state, strict=False)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(fresh(torch.arange(20)), model(torch.arange(20)))


def test_a_module_without_plain_tables_is_refused():
    with pytest.raises(ValueError, match="holds PlainTables or PlainBags, got Linear without any"):
        quantize(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="got PlainBags, which is itself such a part"):
        quantize(PlainBags(TABLES, BAGS))


def test_weights_that_are_no_numbers_are_refused_and_nothing_is_replaced():
    model = Model()
    with torch.no_grad():
        model.bags.collection.get_parameter("embedding_bags.shop.weight")[2, 3] = torch.inf
    with pytest.raises(ValueError, match=r"bags\.collection\.embedding_bags\.shop\.weight: expected finite numbers"):
        quantize(model)
    assert isinstance(model.words, PlainTables)
