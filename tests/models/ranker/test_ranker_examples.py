"""Examples: labels, histories strictly before, drawn negatives and their rates; affinities; how batches are dealt."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from features.columns import Columns, IdColumn
from features.definitions import PAGE_FEATURES
from features.schemas import CART, CLICK, DISLIKE, EVENT_CODE, IMPRESSION, ITEMS, PURCHASE, SEQUENCES, TRAIN
from features.workspace import Workspace
from models.inputs.items import item_columns
from models.ranker.config import RankerConfig
from models.ranker.cross import affinity, pair_columns
from models.ranker.data import RankerData, Sides
from models.ranker.examples import load_examples, with_negatives
from models.ranker.source import PageSource
from models.recommend.catalogue import plain_catalogue

CONFIG = RankerConfig(rows=100, dimensions=4, max_history=3, negatives=2, popular_share=0.5, batch_size=2)
ITEM_IDS = [f"i{n}" for n in range(10)]
CATALOGUE = plain_catalogue(ITEM_IDS)
PAGES = [
    ("u1", 100, [("i1", PURCHASE, 130), ("i2", CART, 120), ("i3", IMPRESSION, 100)]),
    ("u1", 130, [("i4", CLICK, 131), ("i9x", IMPRESSION, 130), ("i5", DISLIKE, 132)]),
    ("u1", 131, [("i6", IMPRESSION, 131)]),
    ("u2", 50, [("i1", CLICK, 51)]),
]


class NoSnapshots:
    def at(self, items_n, times_n):
        return Columns(rows=len(items_n))


def load(tmp_path, pages=PAGES, config=CONFIG):
    workspace = Workspace(tmp_path)
    rows = {}
    for number, (user, time, entries) in enumerate(pages):
        empty = {name: [] for name in SEQUENCES.names[2:]}
        row = rows.setdefault(user, {"user_id": user, "split": TRAIN, **empty})
        row["page_ids"].append(f"p{number}")
        row["page_times"].append(time)
        row["page_lengths"].append(len(entries))
        row["items"] += [item for item, _, _ in entries]
        row["events"] += [EVENT_CODE[event] for _, event, _ in entries]
        row["times"] += [moment for _, _, moment in entries]
    for name, table in (
        ("sequences", pa.Table.from_pylist(list(rows.values()), schema=SEQUENCES)),
        (PAGE_FEATURES, workspace.table(PAGE_FEATURES).schema.empty_table()),
    ):
        workspace.table(name).commit([workspace.table(name).write_part(table, shard=0)])
    popularity = np.zeros(10)
    return load_examples(workspace, CATALOGUE, TRAIN, config, popularity_N=popularity, rng=np.random.default_rng(0))


def of_page(examples, page, values):
    return values[examples.offsets[page] : examples.offsets[page + 1]].tolist()


def test_labels_are_a_funnel_and_what_was_shown_is_negative(tmp_path):
    examples = load(tmp_path)
    assert len(examples) == 4
    assert [of_page(examples, page, examples.items_R) for page in range(4)] == [[1, 2, 3], [4, 5], [6], [1]]
    assert of_page(examples, 0, examples.label_RH) == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert of_page(examples, 1, examples.label_RH) == [[1, 0, 0], [0, 0, 0]], "a dislike is none of them"
    assert not examples.drawn
    assert examples.rate_R.tolist() == [0.0] * 7
    assert examples.dropped == {"no_semantic_id": 1}
    assert examples.times.tolist() == [100] * 3 + [130] * 2 + [131] + [50]


def test_histories_lie_strictly_before_their_pages(tmp_path):
    requests = load(tmp_path).requests
    histories = [
        requests.history_items[requests.history_offsets[page] : requests.history_offsets[page + 1]].tolist()
        for page in range(4)
    ]
    assert histories == [[], [2], [2, 1], []], "the purchase came at 130, the page of 130 does not see it"


LIKED = [("u1", 100, [("i1", CLICK, 101), ("i2", CLICK, 102)]), ("u2", 50, [("i3", PURCHASE, 51)])]


def test_negatives_are_drawn_where_nothing_was_merely_shown(tmp_path):
    examples = load(tmp_path, LIKED)
    assert examples.drawn
    first, second = (of_page(examples, page, examples.items_R) for page in range(2))
    assert first[:2] == [1, 2]
    assert second[0] == 3
    assert len(set(first)) == len(first) <= 2 + 2 * 2
    assert len(set(second)) == len(second) <= 1 + 2
    # no popularity: each of ten items has a chance of 1/10 per draw; four draws on the first page, two on the second
    assert of_page(examples, 0, examples.rate_R) == pytest.approx([np.log(1 - 0.9**4)] * len(first))
    assert of_page(examples, 1, examples.rate_R) == pytest.approx([np.log(1 - 0.9**2)] * len(second))


def test_rates_are_how_often_items_are_drawn(tmp_path):
    bare = dataclasses.replace(load(tmp_path), drawn=False)
    popularity = np.arange(10.0)
    drawn, rate = np.zeros(10), np.zeros(10)
    for seed in range(2000):
        examples = with_negatives(bare, CONFIG, popularity, np.random.default_rng(seed))
        own = slice(examples.offsets[3], examples.offsets[4])
        drawn[examples.items_R[own]] += 1
        rate[examples.items_R[own]] = np.exp(examples.rate_R[own])
    others = np.arange(10) != 1
    # chance of one draw of item n: n / 90 + 1 / 20
    np.testing.assert_allclose(rate[others], 1 - (1 - np.arange(10)[others] / 90 - 0.05) ** 2, rtol=1e-5)
    np.testing.assert_allclose(drawn[others] / 2000, rate[others], atol=0.03)


def test_affinities_are_looked_up_per_request():
    taste = IdColumn(
        hashes=np.array([5, 6, 5], np.uint64), offsets=np.array([0, 2, 3]), weights=np.array([1, 2, 7], np.float32)
    )
    items = IdColumn(hashes=np.array([5, 6, 8], np.uint64), offsets=np.array([0, 2, 2, 3]))
    values = affinity(taste, items, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 2]))
    assert values.tolist() == [3.0, 7.0, 0.0, 0.0]
    stranger = IdColumn(hashes=np.zeros(0, np.uint64), offsets=np.zeros(3, np.int64))
    nobody = affinity(stranger, items, np.array([0, 1]), np.array([0, 0]))
    assert nobody.tolist() == [0.0, 0.0]


def test_prices_are_held_against_the_users():
    items = item_columns(pa.Table.from_pylist([{"item_id": "i", "title": "x", "price": 19.0}], schema=ITEMS))
    users = Columns(rows=2, numbers={"median_price": np.array([9.0, np.nan], np.float32)})
    pairs = pair_columns(users, items, np.array([0, 1]), np.array([0, 0]))
    np.testing.assert_allclose(pairs.numbers["cross.median_price"], [np.log(20 / 10), np.nan], rtol=1e-6)


def data_of(examples):
    items = item_columns(pa.Table.from_pylist([{"item_id": name, "title": name} for name in ITEM_IDS], schema=ITEMS))
    sides = Sides.of(examples, items, NoSnapshots())
    return RankerData.of(CONFIG, sides.layout(CONFIG), examples, sides)


def test_processes_share_the_pages_of_one(tmp_path):
    data = data_of(load(tmp_path))
    one = PageSource(data, 2, seed=7)
    two = [PageSource(data, 1, seed=7, rank=rank, world_size=2) for rank in (0, 1)]
    assert one.steps_per_epoch == two[0].steps_per_epoch == 2
    for whole, *halves in zip(one.iterate(3, 0), *(source.iterate(3, 0) for source in two), strict=True):
        assert whole.size == sum(half.size for half in halves)
        labels = [half.label_RH.sum() for half in halves]
        assert float(whole.label_RH.sum()) == sum(map(float, labels))
        assert whole.share == pytest.approx(1 / whole.size)
        assert [half.share for half in halves] == pytest.approx([2 / whole.size] * 2)


def test_an_epoch_resumes_at_any_step_and_epochs_differ(tmp_path):
    source = PageSource(data_of(load(tmp_path)), 1, seed=0)
    pages = [[batch.size for batch in source.iterate(epoch, 0)] for epoch in range(6)]
    assert [batch.size for batch in source.iterate(2, 3)] == pages[2][3:]
    assert len({tuple(sizes) for sizes in pages}) > 1


def test_fewer_pages_than_processes_are_refused(tmp_path):
    data = data_of(load(tmp_path))
    with pytest.raises(ValueError, match="4 training pages are fewer than 5 processes"):
        PageSource(data, 1, seed=0, world_size=5)
