"""Tables of features on Beam against the slow reference, any number of shards, one more feature, mere order."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from batch_cases import DAY, HOUR, START, event, events_table, random_events, write_events, write_file

from features import definitions
from features.definitions import FEATURES, ITEM, USER, Feature, features_of
from features.events import Events, co_visits
from features.folds import HoursSince, LastItems
from features.memories import Newest
from features.point_in_time import Anchors, reference_values_at
from features.schemas import EVENTS, HISTORY_CODES
from features.values import ItemSnapshots, finish_users, page_columns
from features.workspace import MissingTableError, Workspace
from pipelines.batch.config import BatchConfig, SplitConfig
from pipelines.batch.feature_jobs import WRITTEN, build_user_and_item_features
from pipelines.batch.folding import item_keys
from pipelines.batch.jobs import build_features, validate

pytestmark = pytest.mark.integration

DAYS = 12
CONFIG = BatchConfig(split=SplitConfig(validation_days=1, test_days=1), shards=3)
ITEMS = """item_id,title,category,brand,price
i0,Item zero,"[""Home"",""Kitchen""]",Acme,10
i1,Item one,"[""Home""]",Bolt,20
i2,Item two,,Acme,
i3,Item three,"[""Garden""]",,40
"""


def prepare(folder, rows) -> Workspace:
    workspace = Workspace(folder)
    write_events(workspace, rows)
    write_file(workspace, "items", "items.csv", ITEMS)
    validate(workspace, CONFIG)
    build_features(workspace, CONFIG)
    return workspace


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    rows = random_events(4, 260, users=5, items=6, days=DAYS)
    return prepare(tmp_path_factory.mktemp("features"), rows)


@pytest.fixture(scope="module")
def built(prepared):
    report = build_user_and_item_features(prepared, CONFIG)
    assert report.counts["pages.in"] == report.counts["page_features.out"] == prepared.table("pages").manifest().rows
    return prepared


def streams_by(workspace: Workspace, column: str) -> tuple[list[str], dict[str, Events]]:
    """All events in memory, numbered by user or item, and the co-visits of users."""
    rows = workspace.table("clean_events").read()
    keys = item_keys([workspace.table("clean_items").read(columns=["item_id", "category", "brand", "price"])])
    ids = sorted(set(rows.column(column).to_pylist()))
    entity = np.asarray(pc.index_in(rows.column(column), value_set=pa.array(ids)), dtype=np.int64)
    users = np.asarray(rows.column("user_id").combine_chunks().dictionary_encode().indices, dtype=np.int64)
    own, pairs = co_visits(Events.of_rows(rows, users, keys))
    pairs = Events(entity=entity[own], time=pairs.time, code=pairs.code, item=pairs.item, keys=keys)
    return ids, {"events": Events.of_rows(rows, entity, keys), "co_visits": pairs}


def assert_close(found, expected) -> None:
    assert found.rows == expected.rows
    for name, values in expected.numbers.items():
        np.testing.assert_array_equal(found.numbers[name], values, err_msg=name)
    for name, column in expected.ids.items():
        np.testing.assert_array_equal(found.ids[name].hashes, column.hashes, err_msg=name)
        np.testing.assert_array_equal(found.ids[name].offsets, column.offsets, err_msg=name)
        if column.weights is not None:
            np.testing.assert_array_equal(found.ids[name].weights, column.weights, err_msg=name)


def test_pages_equal_the_reference(built):
    pages = built.table("pages").read().sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    users, streams = streams_by(built, "user_id")
    entity = np.asarray(pc.index_in(pages.column("user_id"), value_set=pa.array(users)), dtype=np.int64)
    moments = Anchors(entity=entity, time=np.asarray(pages.column("timestamp").cast(pa.int64())))
    expected = reference_values_at(features_of(USER), streams, moments)
    assert_close(page_columns(built, pages.column("request_id").to_pylist()), expected)


def test_items_equal_the_reference_on_every_midnight(built):
    """Only the days on which something changed have rows, yet every item has its values of every midnight."""
    items, streams = streams_by(built, "item_id")
    midnights = START + DAY * np.arange(DAYS + 1)
    moments = Anchors(entity=np.repeat(np.arange(len(items)), len(midnights)), time=np.tile(midnights, len(items)))
    snapshots = ItemSnapshots.load(built, items)
    expected = reference_values_at(features_of(ITEM), streams, moments)
    assert_close(snapshots.at(moments.entity, moments.time + HOUR), expected)
    last = np.flatnonzero(moments.time == midnights[-1])
    assert_close(snapshots.latest(), expected.take(last))
    assert any(len(column.hashes) for column in expected.ids.values())


def test_states_equal_the_reference(built):
    rows = built.table("user_states").read().sort_by("user_id")
    users, streams = streams_by(built, "user_id")
    assert rows.column("user_id").to_pylist() == users
    now = START + (DAYS + 1) * DAY
    moments = Anchors(entity=np.arange(len(users)), time=np.full(len(users), now))
    expected = reference_values_at(features_of(USER), streams, moments)
    assert_close(finish_users(rows.column("state").to_pylist(), moments.time), expected)
    last = [max(streams["events"].time[streams["events"].entity == user]) for user in range(len(users))]
    assert rows.column("last_time").cast(pa.int64()).to_pylist() == last


def test_rows_do_not_depend_on_shards_and_a_second_run_changes_nothing(built):
    fingerprints = {name: built.table(name).manifest().fingerprint for name in WRITTEN}
    tables = {name: sorted(built.table(name).read().to_pylist(), key=repr) for name in WRITTEN}
    build_user_and_item_features(built, CONFIG)
    assert {name: built.table(name).manifest().fingerprint for name in WRITTEN} == fingerprints
    build_user_and_item_features(built, BatchConfig(split=CONFIG.split, shards=1))
    assert {name: sorted(built.table(name).read().to_pylist(), key=repr) for name in WRITTEN} == tables
    build_user_and_item_features(built, CONFIG)


NEW = Feature(
    name="first_new", entity=USER, fold=LastItems(memory=Newest(codes=HISTORY_CODES, keep_ms=DAY, length=1), code=1)
)
NEW_ITEM = Feature(
    name="item_hours",
    entity=ITEM,
    fold=HoursSince(memory=Newest(codes=HISTORY_CODES, keep_ms=3 * DAY, length=1), codes=HISTORY_CODES),
    default=72.0,
)


@pytest.fixture
def workspace(prepared, tmp_path):
    """A copy of `prepared` for one test."""
    shutil.copytree(prepared.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def test_one_more_feature_reaches_tables_and_readers(workspace):
    """Given as an argument; nothing else knows it."""
    features = (*FEATURES, NEW, NEW_ITEM)
    build_user_and_item_features(workspace, CONFIG, features=features)
    pages = workspace.table("pages").read().column("request_id").to_pylist()
    assert len(page_columns(workspace, pages, features).ids["first_new"].hashes) > 0
    items, streams = streams_by(workspace, "item_id")
    midnights = START + DAY * np.arange(DAYS + 1)
    moments = Anchors(entity=np.repeat(np.arange(len(items)), DAYS + 1), time=np.tile(midnights, len(items)))
    found = ItemSnapshots.load(workspace, items, features).at(moments.entity, moments.time)
    assert_close(found, reference_values_at(features_of(ITEM, features), streams, moments))
    states = workspace.table("user_states").read().column("state").to_pylist()
    assert "first_new" in finish_users(states, np.full(len(states), START + 2 * DAYS * DAY), features).ids


def test_one_more_entry_in_the_table_reaches_tables_and_readers(workspace, monkeypatch):
    monkeypatch.setattr(definitions, "FEATURES", (*FEATURES, NEW))
    build_user_and_item_features(workspace, CONFIG)
    assert "first_new" in workspace.table("page_features").schema.names
    pages = workspace.table("pages").read().column("request_id").to_pylist()
    assert "first_new" in page_columns(workspace, pages).ids


def test_times_that_are_only_an_order(tmp_path):
    """Times 0, 1, 2, ... of 1970, one user, no known item."""
    workspace = Workspace(tmp_path)
    rows = [event("u", f"x{number}", "click", number - START) for number in range(4)]
    events = workspace.table("events")
    events.commit([events.write_part(events_table(rows).cast(EVENTS), shard=0)], notes={"order_only": True})
    write_file(workspace, "items", "items.csv", ITEMS)
    config = BatchConfig(split=SplitConfig(protocol="leave_one_out"), shards=2)
    for stage in (validate, build_features, build_user_and_item_features):
        stage(workspace, config)
    assert ItemSnapshots.load(workspace, ["x0", "x3"]).latest().numbers["item_clicks_1d"].tolist() == [1.0, 1.0]
    assert workspace.table("page_features").manifest().notes["order_only"]


def test_earlier_stages_are_needed(tmp_path):
    with pytest.raises(MissingTableError, match="clean_events"):
        build_user_and_item_features(Workspace(tmp_path), CONFIG)
