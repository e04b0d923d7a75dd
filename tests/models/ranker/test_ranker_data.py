"""Sides that are held once per item and day, page by page, or encoded per batch are those of every candidate."""

import numpy as np
import pyarrow as pa
import pytest
import torch

import models.ranker.data as data_module
from features.columns import Columns, IdColumn
from features.folds import DAY_MS
from features.schemas import CLICK, EVENT_CODE, ITEMS
from kernels.jagged import concat_ranges, offsets_from_lengths
from models.inputs.items import item_columns
from models.ranker.config import RankerConfig
from models.ranker.cross import pair_columns
from models.ranker.data import RankerData, Sides
from models.ranker.encoding import encode
from models.ranker.examples import RankerExamples
from models.ranker.layout import make_layout
from models.recommend.interface import RequestBatch

CONFIG = RankerConfig(rows=100, dimensions=4, exact_limit=3, max_history=2)
PAGES, ITEM_COUNT, DAYS = 50, 8, 5
ROWS = [{"item_id": f"i{n}", "title": "x", "category": [f"c{n % 3}"], "price": 1.0 + n} for n in range(ITEM_COUNT)]
ITEM_COLUMNS = item_columns(pa.Table.from_pylist(ROWS, schema=ITEMS))


class Midnights:
    """On day d item n has `10 n + d` clicks, nothing known where that is even, and is seen with items of its parity."""

    def at(self, items_n, times_n):
        clicks = 10.0 * items_n + times_n // DAY_MS
        with_n = IdColumn.of_strings(pa.array([f"i{(item + 2) % 8}" for item in items_n]))
        numbers = {"item_clicks_7d": np.where(clicks % 2, clicks, np.nan).astype(np.float32)}
        return Columns(rows=len(items_n), ids={"co_visited": with_n}, numbers=numbers)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    lengths, tastes = rng.integers(1, 6, PAGES), rng.integers(0, 4, PAGES)
    taste = IdColumn(
        hashes=rng.choice(ITEM_COLUMNS.ids["category"].hashes, tastes.sum()),
        offsets=offsets_from_lengths(tastes),
        weights=rng.random(tastes.sum()).astype(np.float32),
    )
    price = np.where(rng.random(PAGES) < 0.3, np.nan, rng.random(PAGES)).astype(np.float32)
    requests = RequestBatch(
        user_ids=[f"u{n % 7}" for n in range(PAGES)],
        times_B=np.sort(rng.integers(-DAY_MS, (DAYS - 1) * DAY_MS, PAGES)),
        history_items=np.arange(PAGES) % ITEM_COUNT,
        history_events=np.full(PAGES, EVENT_CODE[CLICK], np.int8),
        history_times=np.full(PAGES, -DAY_MS),
        history_offsets=np.arange(PAGES + 1),
        excluded_items=np.zeros(0, np.int64),
        excluded_offsets=np.zeros(PAGES + 1, np.int64),
        columns=Columns(rows=PAGES, ids={"category_affinity": taste}, numbers={"median_price": price}),
    )
    return RankerExamples(
        requests=requests,
        items_R=rng.integers(0, ITEM_COUNT, lengths.sum()),
        offsets=offsets_from_lengths(lengths),
        label_RH=np.zeros((lengths.sum(), 3), np.float32),
        rate_R=np.zeros(lengths.sum(), np.float32),
        drawn=False,
        dropped={},
    )


def equal(left, right):
    assert (left.rows, left.ids.keys(), left.numbers.keys()) == (right.rows, right.ids.keys(), right.numbers.keys())
    for name, column in left.ids.items():
        np.testing.assert_array_equal(column.hashes, right.ids[name].hashes)
        np.testing.assert_array_equal(column.offsets, right.ids[name].offsets)
    for name, values in left.numbers.items():
        np.testing.assert_array_equal(values, right.numbers[name])


def test_an_item_and_a_day_are_held_once(examples):
    sides = Sides.of(examples, ITEM_COLUMNS, Midnights())
    days = examples.times // DAY_MS
    assert days.min() == -1
    assert sides.moment.rows == len({*zip(examples.items_R.tolist(), days.tolist(), strict=True)})
    every = Midnights().at(examples.items_R, examples.times)
    equal(sides.moment.take(sides.moment_R), every)
    whole = make_layout(
        CONFIG, request=sides.request, item=ITEM_COLUMNS, moment=every, pair=sides.pair, history=("item_id",)
    )
    assert sides.layout(CONFIG).moment == whole.moment
    assert whole.moment.numbers
    assert whole.moment.ids


def test_pairs_do_not_depend_on_how_many_pages_are_looked_at_together(examples, monkeypatch):
    monkeypatch.setattr(data_module, "_PAGES", 3)
    sides = Sides.of(examples, ITEM_COLUMNS, Midnights())
    assert set(sides.pair.numbers) == {"cross.category_affinity", "cross.median_price"}
    equal(sides.pair, pair_columns(sides.request, ITEM_COLUMNS, examples.pages, examples.items_R))


def test_requests_of_a_batch_are_rows_of_all_encoded(examples):
    sides = Sides.of(examples, ITEM_COLUMNS, Midnights())
    data = RankerData.of(CONFIG, sides.layout(CONFIG), examples, sides)
    pages = np.array([7, 3, 41])
    batch = data.batch(pages, share=1.0)
    whole = encode(data.layout.request, sides.request, CONFIG.rows).take(pages)
    encoded = encode(data.layout.request, sides.request.take(pages), CONFIG.rows)
    for name in ("ids", "slots", "weights", "offsets", "numbers_RX"):
        np.testing.assert_array_equal(getattr(encoded, name), getattr(whole, name))
    assert torch.equal(batch.request_BX, torch.from_numpy(whole.numbers_RX))
    rows = concat_ranges(examples.offsets[pages], np.diff(examples.offsets)[pages])
    every = encode(data.layout.moment, Midnights().at(examples.items_R[rows], examples.times[rows]), CONFIG.rows)
    assert torch.equal(batch.moment_RX, torch.from_numpy(every.numbers_RX))
