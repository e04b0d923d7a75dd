"""Tables -> store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from store_tables import SHOWN, C, D, P, sequence, small_workspace, write

from features import schemas
from features.definitions import ITEM, features_of, state_layout
from features.folds import NUMBER
from features.schemas import TEST, TRAIN
from features.semantic_ids import Catalogue
from features.store.backfill import backfill
from features.store.base import STATE, Freshness, ItemFacts
from features.store.config import StoreConfig
from features.workspace import MissingTableError, Workspace
from kernels.hashing import hash_strings
from models.recommend.requests import requests_from_sequences

pytestmark = pytest.mark.integration


@pytest.fixture
def workspace(tmp_path):
    return small_workspace(tmp_path / "w")


def test_all_splits_become_one_history_without_impressions(workspace, store):
    report = backfill(workspace, store, StoreConfig(history_length=10))
    filled = report.filled
    found = store.histories(["ann", "bob", "eve"], 10)
    assert found.offsets.tolist() == [0, 4, 4, 5]  # the store keeps 4 of ann's 5
    assert found.item_ids.to_pylist() == ["i2", "i4", "i5", "i9", "i1"]
    assert found.events.tolist() == [P, C, D, C, C]
    assert found.times.tolist() == [20, 30, 30, 90, 7]
    assert (filled.users, filled.entries, filled.impressions, filled.overflow, filled.items) == (2, 6, 2, 0, 2)
    assert store.freshness() == Freshness(generation=report.generation, newest_event_time=90, users=2, items=2)
    assert report.lines()[0].startswith("store: 2 users with 6 history entries, 2 items; left out 2 impressions and 0")


def test_newest_events_are_kept_and_the_others_counted(workspace, store):
    report = backfill(workspace, store, StoreConfig(history_length=2))
    assert store.histories(["ann"], 10).item_ids.to_pylist() == ["i5", "i9"]
    assert (report.filled.entries, report.filled.overflow) == (3, 3)


def test_item_facts_are_written(workspace, store):
    backfill(workspace, store, StoreConfig())
    one = ItemFacts(item_id="i1", title="one", category=("a", "b"), brand="x", price=1.5, available_from=9)
    assert store.items(["i1", "i2"]) == [one, ItemFacts(item_id="i2", title="two", available=False)]


def test_what_else_is_known_of_users_and_items_is_written(workspace, store):
    users = [{"user_id": "ann", "attributes": [("plan", "gold"), ("age", None)]}, {"user_id": "bob"}]
    write(workspace, "clean_users", users)
    layout = state_layout().to_bytes(8, "little")
    write(workspace, "user_states", [{"user_id": "eve", "last_time": 7, "state": layout + bytes(8)}])
    number = next(feature.name for feature in features_of(ITEM) if feature.kind == NUMBER)
    days = [{"item_id": "i1", "as_of": day * 86_400_000, number: float(day)} for day in (2, 3, 1)]
    write(workspace, "item_features", days)
    before = backfill(workspace, store, StoreConfig())
    known = store.users(["ann", "bob", "eve"], 10)
    assert known.attributes == [{"plan": "gold"}, None, None]
    assert known.states == [None, None, layout + bytes(8)]
    assert known.freshness[STATE].event_times.tolist() == [0, 0, 7]
    default = next(feature.default for feature in features_of(ITEM) if feature.name == number)
    assert store.item_features(["i2", "i1"]).numbers[number].tolist() == [default, 3.0]
    assert (before.filled.attributes, before.filled.states, before.filled.item_features) == (1, 1, 1)
    assert before.lines()[1].startswith("store: feature states of 1 users, attributes of 1, features of 1 items")
    write(workspace, "item_features", days[:1])
    assert backfill(workspace, store, StoreConfig()).generation != before.generation


def test_users_in_small_writes_are_the_same(workspace, store, monkeypatch):
    backfill(workspace, store, StoreConfig())
    before = store.histories(["ann", "eve"], 10)
    monkeypatch.setattr("features.store.filling.USERS_PER_WRITE", 1)
    store.client.delete(store.keys.freshness(store.generations()[0]))
    assert backfill(workspace, store, StoreConfig()).filled.users == 2
    after = store.histories(["ann", "eve"], 10)
    assert before.item_ids.equals(after.item_ids)
    np.testing.assert_array_equal(before.offsets, after.offsets)


def test_pages_are_named_by_the_hashes_of_their_requests(workspace, store):
    backfill(workspace, store, StoreConfig())
    found = store.histories(["ann", "eve"], 10)
    # ann's i2 stands on her first page of training, i4 and i5 on the second, i9 on the one of the test split
    names = ["anntrain0", "anntrain1", "anntrain1", "anntest0", "evetrain0"]
    assert found.pages.tolist() == hash_strings(pa.array(names)).tolist()


def test_new_rows_are_a_new_generation(workspace, store):
    first = backfill(workspace, store, StoreConfig())
    write(workspace, "sequences", [sequence("ann", TRAIN, [[("i1", C, 1)]])])
    assert backfill(workspace, store, StoreConfig()).generation != first.generation
    assert store.histories(["ann"], 10).item_ids.to_pylist() == ["i1"]


def test_nobody_with_a_history_is_no_error(workspace, store):
    write(workspace, "sequences", [sequence("bob", TRAIN, [[("i1", SHOWN, 5)]])])
    report = backfill(workspace, store, StoreConfig())
    assert (report.filled.users, report.filled.entries) == (0, 0)
    assert store.freshness().newest_event_time is None


def test_missing_table_says_which(tmp_path, store):
    with pytest.raises(MissingTableError, match="table 'sequences' does not exist"):
        backfill(Workspace(tmp_path / "empty"), store, StoreConfig())


def test_histories_are_what_a_plain_loop_would_collect(tmp_path, store):
    rng = np.random.default_rng(7)
    rows, expected = [], {}
    for user in map(str, range(30)):
        clock, collected = 0, []
        for split in schemas.SPLITS:
            pages = []
            for _ in range(rng.integers(0, 4)):
                clock += 100
                page = [(f"i{rng.integers(9)}", int(rng.integers(5)), clock + int(rng.integers(3))) for _ in range(3)]
                pages.append(page)
                collected += [entry for entry in page if entry[1] != SHOWN]
            if pages:
                rows.append(sequence(user, split, pages))
        expected[user] = sorted(collected, key=lambda entry: entry[2])[-4:]
    rng.shuffle(rows)
    workspace = Workspace(tmp_path / "random")
    write(workspace, "sequences", rows)
    write(workspace, "clean_items", [])
    backfill(workspace, store, StoreConfig())
    for user, entries in expected.items():
        found = store.histories([user], 4)
        assert found.item_ids.to_pylist() == [item for item, _, _ in entries]
        assert found.events.tolist() == [event for _, event, _ in entries]
        assert found.times.tolist() == [moment for _, _, moment in entries]


def test_histories_are_those_of_evaluation_requests(workspace, store):
    write(
        workspace,
        "sequences",
        [
            sequence("ann", TRAIN, [[("i2", P, 20), ("i1", C, 10)], [("i1", D, 20)]]),
            sequence("ann", TEST, [[("i2", C, 50)], [("i1", C, 1000)]]),
        ],
    )
    backfill(workspace, store, StoreConfig())
    catalogue = Catalogue(["i1", "i2"], np.array([[0], [1]]), (2,))
    last = requests_from_sequences(workspace, catalogue, TEST, max_history=3).requests.take(np.array([1]))
    found = store.histories(["ann"], 4)
    assert found.times.tolist() == [20, 20, 50, 1000]
    assert last.history_times.tolist() == found.times[:-1].tolist()
    assert last.history_items.tolist() == catalogue.numbers(found.item_ids)[:-1].tolist()
