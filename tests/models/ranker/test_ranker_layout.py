"""Layout: what is hashed, what is exact, which rows values get, how numbers are standardised."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from features.columns import Columns, IdColumn
from kernels.multiplex import multiplex_rows
from models.ranker.config import RankerConfig
from models.ranker.encoding import encode
from models.ranker.layout import Layout, make_layout

CONFIG = RankerConfig(rows=1000, dimensions=4, probes=2, exact_limit=2)
NOTHING = Columns(rows=0)


def strings(*values):
    return IdColumn.of_strings(pa.array(values))


def request_columns():
    return Columns(
        rows=4,
        ids={"user_id": strings("a", "b", "c", "d"), "device": strings("phone", "desk", "phone", None)},
        numbers={"visits": np.array([0, np.e - 1, np.nan, 0], np.float32)},
    )


def layout_of(request, config=CONFIG, item=NOTHING):
    return make_layout(config, request=request, item=item, moment=NOTHING, pair=NOTHING, history=("item_id",))


def values_of(encoded, row):
    own = slice(encoded.offsets[row], encoded.offsets[row + 1])
    return list(zip(encoded.slots[own].tolist(), encoded.ids[own].tolist(), strict=True))


def test_many_values_are_hashed_and_few_are_exact():
    user, device = layout_of(request_columns()).request.ids
    assert (user.name, user.probes, user.vocabulary) == ("user_id", 2, None)
    assert (device.name, device.probes, len(device.vocabulary), device.first_row) == ("device", 1, 2, 0)


def test_rows_of_values_are_the_multiplexed_ones_and_exact_rows_come_behind_the_shared_table():
    request = request_columns()
    layout = layout_of(request)
    encoded = encode(layout.request, request, CONFIG.rows)
    hashes = request.ids["user_id"].hashes
    probes = [int(multiplex_rows("user_id", hashes[:1], 1000, probe)[0]) for probe in (0, 1)]
    phone = 1000 + 1 + layout.request.ids[1].vocabulary.index(int(request.ids["device"].hashes[0]))
    assert values_of(encoded, 0) == [(0, probes[0]), (1, probes[1]), (2, phone)]
    assert [slot for slot, _ in values_of(encoded, 3)] == [0, 1], "no device, no value"


def test_values_that_training_never_met_share_a_row():
    layout = layout_of(request_columns())
    other = Columns(rows=2, ids={"device": strings("watch", "car")})
    encoded = encode(layout.request, other, CONFIG.rows)
    assert encoded.ids.tolist() == [1000, 1000]
    assert layout.unknown_rows == [0]


def test_a_new_feature_changes_no_rows_of_others():
    before = request_columns()
    after = Columns(rows=4, ids={"colour": strings("r", "g", "b", "y"), **before.ids}, numbers=before.numbers)
    old = encode(layout_of(before).request, before, CONFIG.rows)
    new = encode(layout_of(after).request, after, CONFIG.rows)
    shift = 2
    for row in range(4):
        kept = [(slot - shift, number) for slot, number in values_of(new, row) if slot >= shift]
        assert kept == values_of(old, row)


def test_numbers_are_squashed_and_standardised_and_missing_ones_told():
    request = request_columns()
    (number,) = layout_of(request).request.numbers
    # log1p of 0, e - 1, 0 is 0, 1, 0: mean 1/3, variance (2 * 1/9 + 4/9) / 3 = 2/9
    assert number.mean == pytest.approx(1 / 3)
    assert number.scale == pytest.approx((2 / 9) ** 0.5)
    encoded = encode(layout_of(request).request, request, CONFIG.rows)
    low = -(1 / 3) / (2 / 9) ** 0.5
    np.testing.assert_allclose(encoded.numbers_RX, [[low, 0], [-2 * low, 0], [0, 1], [low, 0]], rtol=1e-5)


def test_a_number_that_is_always_the_same_is_left_out():
    """Weights of it would stay as they were drawn, and tell at random of the values that come later."""
    same, never = np.full(4, 7, np.float32), np.full(4, np.nan, np.float32)
    mostly = np.array([7, 7, np.nan, 7], np.float32)
    request = Columns(rows=4, numbers={"same": same, "never": never, "mostly": mostly, **request_columns().numbers})
    assert [number.name for number in layout_of(request).request.numbers] == ["visits"]


def test_far_numbers_count_as_four_scales():
    layout = layout_of(request_columns())
    far = Columns(rows=2, numbers={"visits": np.array([1e9, -1e9], np.float32)})
    assert encode(layout.request, far, CONFIG.rows).numbers_RX[:, 0].tolist() == [4.0, -4.0]


def test_weights_are_shares_of_their_row():
    column = IdColumn(
        hashes=np.array([1, 2, 3], np.uint64), offsets=np.array([0, 2, 3]), weights=np.array([3, 1, 5], np.float32)
    )
    columns = Columns(rows=2, ids={"taste": column})
    encoded = encode(layout_of(columns, dataclasses.replace(CONFIG, probes=1)).request, columns, CONFIG.rows)
    assert encoded.weights.tolist() == [0.75, 0.25, 1.0]


def test_take_equals_encoding_the_taken_rows():
    request = request_columns()
    side = layout_of(request).request
    rows = np.array([2, 0, 2])
    taken, direct = encode(side, request, 1000).take(rows), encode(side, request.take(rows), 1000)
    for field in dataclasses.fields(taken):
        np.testing.assert_array_equal(getattr(taken, field.name), getattr(direct, field.name))


def test_history_features_come_first():
    item = Columns(rows=2, ids={"brand": strings("x", "y"), "item_id": strings("i", "j")})
    layout = layout_of(request_columns(), item=item)
    assert [feature.name for feature in layout.item.ids] == ["item_id", "brand"]
    assert [feature.name for feature in layout.history_side.ids] == ["item_id"]


def test_json_keeps_everything():
    layout = layout_of(request_columns())
    assert Layout.from_json(json.loads(json.dumps(dataclasses.asdict(layout)))) == layout


def test_unknown_features_are_refused_with_the_known_ones():
    config = dataclasses.replace(CONFIG, features=("user_id", "shoe_size"))
    with pytest.raises(ValueError, match="unknown shoe_size; known features: device, user_id, visits"):
        layout_of(request_columns(), config)
    with pytest.raises(ValueError, match="unknown hat"):
        layout_of(request_columns(), dataclasses.replace(CONFIG, probes_of={"hat": 1}))


def test_only_chosen_features_and_their_own_probes():
    config = dataclasses.replace(CONFIG, features=("user_id",), probes_of={"user_id": 3})
    side = layout_of(request_columns(), config).request
    assert (side.slots, side.number_width, side.width(4)) == (3, 0, 12)


def test_numbers_of_pairs_can_be_chosen_too():
    pair = Columns(rows=2, numbers={"cross.taste": np.array([0, 1], np.float32)})
    config = dataclasses.replace(CONFIG, features=("user_id", "cross.taste"))
    layout = make_layout(config, request=request_columns(), item=NOTHING, moment=NOTHING, pair=pair, history=())
    assert [number.name for number in layout.pair.numbers] == ["cross.taste"]


def test_mistakes_in_the_configuration_are_told_together():
    with pytest.raises(ValueError, match="probes: expected at least 1, got 0") as caught:
        RankerConfig(probes=0, dimensions=6, values=(0, 0, 0), popular_share=1.0, attention_heads=3)
    message = str(caught.value)
    for part in (
        "multiple of 4, got 6",
        "values: expected",
        "popular_share",
        "multiple of attention_heads = 3, got 32",
    ):
        assert part in message
