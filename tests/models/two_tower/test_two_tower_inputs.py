import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from features.columns import Columns, IdColumn
from features.schemas import CLICK, DISLIKE, EVENT_CODE
from kernels.hashing import hash_strings
from models.inputs.items import item_columns
from models.recommend.interface import RequestBatch
from models.two_tower.inputs import ItemRows, UserRows, tower_columns
from models.two_tower.schema import Schema, make_schema


def columns_of(shop, items, **requests):
    """Columns of the shop's items, and of two requests with `requests` beside moment and history."""
    return item_columns(items), Columns(rows=2, **requests)


def rows_of_bag(bag):
    return [bag.values[start:end].tolist() for start, end in zip(bag.offsets[:-1], bag.offsets[1:], strict=True)]


def requests(items, events, times, offsets, at):
    return RequestBatch(
        user_ids=[f"u{number}" for number in range(len(at))],
        times_B=np.array(at),
        history_items=np.array(items),
        history_events=np.array(events, np.int8),
        history_times=np.array(times),
        history_offsets=np.array(offsets),
        excluded_items=np.zeros(0, np.int64),
        excluded_offsets=np.zeros(len(at) + 1, np.int64),
    )


def test_windows_hold_the_newest_items_without_dislikes(shop):
    _, _, schema, items = shop.make_shop()
    click, dislike = EVENT_CODE[CLICK], EVENT_CODE[DISLIKE]
    batch = requests([5, 7, 9, 2, 4], [click, click, click, click, dislike], [1, 2, 3, 4, 5], [0, 5, 5], [9, 9])
    users = UserRows(schema, batch, items).take(np.array([1, 0]))
    item_row = dict(enumerate(items.by_column["item_id"].values))
    assert rows_of_bag(users.bags["user:history1.item_id"]) == [[], [item_row[2]]]
    assert rows_of_bag(users.bags["user:history3.item_id"]) == [[], [item_row[7], item_row[9], item_row[2]]]
    brands = rows_of_bag(users.bags["user:history3.brand"])[1]
    assert len(brands) == 3  # items 7, 9 and 2 have a brand each


def test_recency_and_length_of_the_history():
    click = EVENT_CODE[CLICK]
    numbers = tower_columns(requests([3, 4], [click, click], [1_000, 2_000], [0, 2, 2], [9_000, 9_000])).numbers
    assert numbers["recency"].tolist() == pytest.approx([np.log(1 + 7), np.nan], nan_ok=True)
    assert numbers["history_length"].tolist() == pytest.approx([np.log(3), 0])


def test_request_columns_become_blocks_and_rare_values_are_unknown(shop):
    plans = IdColumn.of_strings(pa.array(["gold", "gold", "free"]))
    few = Columns(rows=3, ids={"user.plan": plans}, numbers={"age": np.array([20, 40, np.nan], np.float32)})
    config = dataclasses.replace(shop.CONFIG, min_count=2)
    schema = make_schema(item_columns(shop.item_table()), few, np.arange(4), config)
    assert [block.name for block in schema.user if not block.window] == ["user.plan", "age"]
    assert schema.user_values["user.plan"].tolist() == hash_strings(pa.array(["gold"])).tolist()
    assert schema.number_of("age", np.array([20, 40, np.nan, np.inf, 900], np.float32)).tolist() == pytest.approx(
        [-1, 1, np.nan, np.nan, 5], nan_ok=True
    )
    assert len(schema.item_values["item_id"]) == 4  # only those with a training event
    assert schema.tables["user.plan"] == "user_plan"


def test_columns_that_tell_nothing_apart_are_left_out(shop):
    table = shop.item_table()
    table = table.set_column(table.schema.get_field_index("price"), "price", pa.array([3.0] * len(table)))
    schema = make_schema(item_columns(table), Columns(rows=0), np.arange(4), shop.CONFIG)
    assert {block.name for block in schema.item} == {"item_id", "category", "brand", "title", "attribute.size"}


def test_an_order_has_no_moment_and_user_ids_are_read_only_when_named(shop):
    _, cases = shop.make_cases()
    items, columns = item_columns(shop.item_table()), tower_columns(cases.requests)

    def names(config=shop.CONFIG, **options):
        schema = make_schema(items, columns, np.arange(24), config, **options)
        return [block.name for block in schema.user if not block.window]

    assert names() == ["hour", "weekday", "recency", "history_length"]
    assert names(order_only=True) == ["history_length"]
    assert names(dataclasses.replace(shop.CONFIG, user_features=("user_id",))) == ["user_id"]


def test_unknown_features_are_refused_with_the_known_ones(shop):
    config = dataclasses.replace(shop.CONFIG, item_features=("item_id", "colour"), user_features=("age",))
    with pytest.raises(ValueError, match=r"item_features: unknown colour; known: attribute\.size, brand, ") as told:
        make_schema(item_columns(shop.item_table()), Columns(rows=0), np.arange(4), config)
    assert told.match("(?s).*user_features: unknown age; known: ")
    assert told.match("(?s).*history_features: unknown brand, category; ids among the item_features: item_id")


def test_a_schema_and_item_inputs_survive_the_disk(shop, tmp_path):
    _, _, schema, items = shop.make_shop()
    (tmp_path / "features").write_bytes(schema.to_bytes())
    (tmp_path / "items").write_bytes(items.to_bytes())
    read = Schema.load(str(tmp_path / "features"))
    assert read.to_bytes() == schema.to_bytes()
    again = ItemRows.load(read, tmp_path / "items")
    np.testing.assert_array_equal(again.inputs.numbers, items.inputs.numbers)
    for name, bag in items.inputs.bags.items():
        assert rows_of_bag(again.inputs.bags[name]) == rows_of_bag(bag)


def test_views_hide_features_and_drop_values_of_many_valued_ones(shop):
    _, _, schema, items = shop.make_shop()
    names = [block.name for block in schema.item]
    hidden = np.array([name in ("item_id", "log_price") for name in names])
    chosen = np.tile(np.arange(shop.ITEM_COUNT), 100)
    view = items.views(chosen, hidden, 0.3, np.random.default_rng(0))
    whole = items.take(chosen)
    kept = {name: len(view.bags[name].values) / len(bag.values) for name, bag in whole.bags.items()}
    expected = dict.fromkeys(kept, 1.0) | {"item:item_id": 0, "item:category": 0.7, "item:title": 0.7}
    assert kept == pytest.approx(expected, abs=0.03)
    assert np.isnan(view.numbers).all()
    assert not np.isnan(items.views(chosen, ~hidden, 0.3, np.random.default_rng(0)).numbers).all()
