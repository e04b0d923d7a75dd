"""Folding new events into states and values equals computing them from all events, late events among them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from batch_cases import DAY, START, events_table, random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import ITEM_FEATURES, ITEM_STATES, USER_STATES, feature_schemas
from features.events import Events
from features.schemas import ITEMS, TIMESTAMP
from pipelines.batch.fold_new import counted, grown_items, grown_user_states, item_states, pair_changes
from pipelines.batch.folding import (
    KEY_COLUMNS,
    co_visit_rows,
    item_features,
    item_keys,
    page_features,
    user_events,
    user_states,
)
from pipelines.batch.merge import without_keys
from pipelines.batch.transforms import SORT_KEYS, sorted_rows

pytestmark = pytest.mark.integration

DAYS = 40
CATALOGUE = pa.Table.from_pylist(
    [
        {"item_id": "i0", "title": "a", "category": ["Home", "Kitchen"], "brand": "Acme", "price": 10.0},
        {"item_id": "i1", "title": "b", "category": ["Home"], "brand": "Bolt", "price": 20.0},
        {"item_id": "i2", "title": "c", "brand": "Acme"},
    ],
    schema=ITEMS,
).select(KEY_COLUMNS)
KEYS = item_keys([CATALOGUE])
SCHEMAS = feature_schemas()


def split(seed: int, size: int, late: float) -> tuple[pa.Table, np.ndarray]:
    """Return events of 40 days, and which are new: those of the last days, and a share of the others."""
    events = events_table(random_events(seed, size, users=3, items=5, days=DAYS))
    rng = np.random.default_rng(seed)
    time = np.asarray(events.column("timestamp").cast(pa.int64()))
    fresh = (time >= START + int(rng.integers(1, DAYS)) * DAY) | (rng.random(size) < late)
    fresh[np.argmax(time)], fresh[np.argmin(time)] = True, False
    return events, fresh


def midnight(events: pa.Table) -> int:
    return (pc.max(events.column("timestamp").cast(pa.int64())).as_py() // DAY + 1) * DAY


def pairs_of(events: pa.Table) -> pa.Table:
    return co_visit_rows(events, user_events(events, KEYS)[1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 150), late=st.sampled_from([0.0, 0.1, 0.5]))
def test_items(seed, size, late):
    events, fresh = split(seed, size, late)
    before = events.filter(pa.array(~fresh))
    midnights = midnight(before), midnight(events)
    values = item_features(before, pairs_of(before), KEYS, midnights[0])
    _, of_users = user_events(events, KEYS)
    parts = {
        "fresh": events.filter(pa.array(fresh)),
        "changes": pair_changes(events, fresh, of_users.entity, KEYS),
        "states": item_states(before, pairs_of(before), CATALOGUE, KEYS),
        "events": events,
        "pairs": counted(pairs_of(events)),
        "keys": values.select(SORT_KEYS[ITEM_FEATURES]),
    }
    grown = grown_items(parts, CATALOGUE, KEYS, midnights)
    if grown.regressed:
        return
    found = pa.concat_tables([without_keys(values, grown.removed, SORT_KEYS[ITEM_FEATURES]), grown.added])
    expected = item_features(events, pairs_of(events), KEYS, midnights[1])
    assert sorted_rows(found, ITEM_FEATURES).equals(sorted_rows(expected, ITEM_FEATURES))
    assert grown.states.schema == SCHEMAS[ITEM_STATES]
    assert grown.states.equals(item_states(events, pairs_of(events), CATALOGUE, KEYS))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 150), late=st.sampled_from([0.0, 0.3]))
def test_users(seed, size, late):
    events, fresh = split(seed, size, late)
    before, new = events.filter(pa.array(~fresh)), events.filter(pa.array(fresh))
    users, of_users = user_events(events, KEYS)
    old = user_states(*user_events(before, KEYS))
    grown, earlier = grown_user_states(old, users, numbered(new, users))
    assert grown.schema == SCHEMAS[USER_STATES]
    assert grown.equals(user_states(users, of_users))
    last = {row["user_id"]: row["last_time"] for row in old.to_pylist()}
    rng = np.random.default_rng(seed)
    moments = START + rng.integers(0, (DAYS + 90) * DAY, 20)
    chosen = rng.integers(0, len(users), 20)
    anchors = pa.table(
        {
            "request_id": [f"r{number}" for number in range(20)],
            "user_id": users.take(pa.array(chosen)),
            "timestamp": pa.array(moments).cast(TIMESTAMP),
        }
    )
    later = [row["user_id"] not in last or row["timestamp"] > last[row["user_id"]] for row in anchors.to_pylist()]
    anchors = anchors.filter(pa.array(later))
    found = page_features(anchors, users, numbered(new, users), earlier=earlier)
    assert found.equals(page_features(anchors, users, of_users))


def numbered(events: pa.Table, users: pa.Array) -> Events:
    place = np.asarray(pc.index_in(events.column("user_id"), value_set=users), dtype=np.int64)
    return Events.of_rows(events, place, KEYS)
