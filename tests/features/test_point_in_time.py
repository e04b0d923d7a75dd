"""Values at moments: the fast way equals the loop, and nothing of the moment or later counts."""

from __future__ import annotations

import dataclasses

import numpy as np
from feature_cases import DAY, HOUR, assert_equal_columns, events_of, ids_of, random_anchors, random_log, text_hash
from hypothesis import given, settings
from hypothesis import strategies as st

from features import point_in_time
from features.definitions import FEATURES, ITEM, USER, features_of
from features.events import Events
from features.point_in_time import Anchors, reference_values_at, values_at

FEW = [f for f in features_of(USER) if f.name in ("last_clicks", "user_clicks_1h", "category_affinity", "median_price")]


def streams_of(rng: np.random.Generator, size: int) -> dict[str, Events]:
    return {"events": random_log(rng, size), "co_visits": random_log(rng, size)}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(0, 80), anchors=st.integers(0, 12))
def test_equals_the_reference(seed, size, anchors):
    rng = np.random.default_rng(seed)
    streams = streams_of(rng, size)
    moments = random_anchors(rng, anchors, streams["events"])
    for entity in (USER, ITEM):
        features = features_of(entity)
        if anchors:
            expected = reference_values_at(features, streams, moments)
            assert_equal_columns(values_at(features, streams, moments), expected)
        else:
            assert values_at(features, streams, moments).rows == 0


def test_equals_the_reference_in_small_steps(monkeypatch):
    """Many steps of at most 7 gathered rows."""
    monkeypatch.setattr(point_in_time, "ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(1)
    streams = streams_of(rng, 200)
    moments = random_anchors(rng, 40, streams["events"])
    assert_equal_columns(values_at(FEATURES, streams, moments), reference_values_at(FEATURES, streams, moments))


def test_what_happens_at_the_moment_or_later_changes_nothing():
    rng = np.random.default_rng(2)
    events = random_log(rng, 150)
    moments = random_anchors(rng, 30, events)
    before = values_at(FEW, {"events": events}, moments)
    for row in range(len(moments)):
        later = events.time >= moments.time[row]
        changed = dataclasses.replace(events, item=np.where(later, events.item[0], events.item))
        changed = dataclasses.replace(changed, code=np.where(later, 1, events.code).astype(np.int8))
        after = values_at(FEW, {"events": changed}, moments)
        assert_equal_columns(after.take(np.array([row])), before.take(np.array([row])))


def test_an_event_of_the_very_moment_does_not_count():
    """Moments 1 ms before, at and 1 ms after a click."""
    events = events_of([(4, "pot", "click", DAY)])
    moments = Anchors(entity=np.array([4, 4, 4]), time=np.array([DAY - 1, DAY, DAY + 1]))
    values = values_at(FEW, {"events": events}, moments)
    assert values.numbers["user_clicks_1h"].tolist() == [0.0, 0.0, 1.0]
    assert [ids_of(values.ids["last_clicks"], row) for row in range(3)] == [[], [], [text_hash("pot")]]


def test_times_that_are_only_an_order():
    """Times 0, 1, 2, as in data sets that kept no more than the order; also before 1970."""
    events = events_of([(0, item, "click", time) for time, item in ((-1, "pot"), (0, "pan"), (1, "bed"))])
    moments = Anchors(entity=np.zeros(4, np.int64), time=np.array([-1, 0, 1, HOUR]))
    values = values_at(FEW, {"events": events}, moments)
    expected = [[], ["pot"], ["pan", "pot"], ["bed", "pan", "pot"]]
    assert [ids_of(values.ids["last_clicks"], row) for row in range(4)] == [
        [text_hash(item) for item in items] for items in expected
    ]
