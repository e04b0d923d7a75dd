"""Each fault that is planted in what the service read is found and named; without any there is nothing to say."""

from __future__ import annotations

import pytest
from batch_cases import DAY, HOUR, START
from check_world import (
    LATE,
    ROBOT,
    TODAY,
    World,
    alerts,
    carts_as_clicks,
    item_feature_names,
    mismatched,
    other_trend,
    position,
    twice,
    without_newest,
)

from features.definitions import FEATURES
from pipelines.feature_check.config import FeatureCheckConfig

pytestmark = pytest.mark.integration

NOW = START + TODAY * DAY


def spoilt(world: World, change, pages=range(5)) -> list[dict]:
    """Reads in which the states of some pages hold other events."""
    rows = world.reads()
    for page in pages:
        rows[page] |= world.state(rows[page]["user_id"], rows[page]["timestamp"], change)
    return rows


def test_a_right_service_has_no_mismatch(world) -> None:
    report = world.judge(world.reads())
    assert (report.alerts, mismatched(report)) == ((), set())
    assert {one.name for one in report.features} == {feature.name for feature in FEATURES}
    assert report.counts["pages.in"] == report.counts["pages.current"] == report.checked == 60
    assert report.counts["items.in"] == report.counts["items.back_0"] == 120
    shares = {one.name: one for one in report.features}
    for feature in report.features:
        assert feature.default_share == feature.batch_default_share, feature.name
    assert 0 < shares["user_clicks_1h"].default_share <= 1


def test_a_state_without_the_newest_event_is_late(world) -> None:
    report = world.judge(spoilt(world, without_newest))
    assert (alerts(report), mismatched(report)) == (["late"], set())
    assert report.counts["pages.late"] == report.counts["pages.behind"] == 5
    assert any(one.explained_rate for one in report.features)
    assert report.staleness["behind_s"]["p50"] > 60
    assert "8.33 % of the pages lacked events from more than 60 s before" in report.alerts[0]


def test_a_state_that_lacks_what_came_late_is_behind_though_its_newest_event_is_right(world) -> None:
    def in_time(rows):
        return rows.filter([name == "in time" for name in rows["event_id"].to_pylist()])

    before, after = world.read(0, LATE, NOW + 2 * HOUR), world.read(1, LATE, NOW + 3 * HOUR)
    before |= world.state(LATE, NOW + 2 * HOUR, in_time)
    after |= {"position": position(NOW + HOUR // 2, late=True)}
    report = world.judge([before, after])
    assert (report.counts["pages.behind"], report.counts["pages.current"], mismatched(report)) == (1, 1, set())
    # accepted at half past two what the state, of one o'clock, lacks
    assert report.staleness["position_lag_s"]["p50"] == pytest.approx(1.5 * 3600, rel=0.1)
    assert report.staleness["behind_s"]["p50"] == pytest.approx(1.5 * 3600, rel=0.1)
    assert report.staleness["state_age_s"]["p50"] == pytest.approx(3600, rel=0.1)


def test_a_lag_of_seconds_is_no_alert(world) -> None:
    row = world.read(0, ROBOT, NOW + 59 * 60_000 + 2000)
    report = world.judge([row | world.state(ROBOT, row["timestamp"], without_newest)])
    assert (report.counts["pages.behind"], report.counts["pages.late"], report.alerts) == (1, 0, ())


def test_another_definition_of_events_is_named_by_the_features_it_changes(world) -> None:
    report = world.judge(spoilt(world, carts_as_clicks, range(60)))
    assert set(alerts(report)) == {"mismatch"}
    assert {"last_clicks", "last_carts", "user_clicks_7d", "user_carts_7d"} <= mismatched(report)
    assert not mismatched(report) & {"last_impressions", "user_purchases_7d", "hours_since_dislike"}
    assert not mismatched(report) & item_feature_names()


def test_another_definition_of_an_item_feature_is_named(world) -> None:
    rows = world.reads()
    for row in rows[:6]:
        row["item_features"] = other_trend(row["item_features"])
    report = world.judge(rows)
    assert mismatched(report) == {"item_trend"}
    (trend,) = [one for one in report.features if one.name == "item_trend"]
    assert (trend.mismatch_rate, trend.examples) == (0.1, ("r000", "r001", "r002"))
    assert trend.largest_difference == pytest.approx(0.5, abs=1e-6)
    assert "mismatch: item_trend differs from batch in 10 %" in report.alerts[0]


def test_an_event_folded_twice_is_named_by_the_counts(world) -> None:
    time = NOW + 59 * 60_000 + 30_000
    row = world.read(0, ROBOT, time)
    report = world.judge([row | world.state(ROBOT, time, twice), *world.reads()[1:]])
    found = mismatched(report)
    assert {"user_clicks_1h", "user_clicks_1d", "user_clicks_7d", "item_affinity"} <= found
    assert not found & {"last_clicks", "hours_since_click", "user_carts_7d", "median_price"}
    (clicks,) = [one for one in report.features if one.name == "user_clicks_1d"]
    assert (clicks.largest_difference, clicks.examples) == (1.0, ("r000",))
    assert set(alerts(report)) == {"mismatch"}


def test_a_user_whose_state_is_gone_is_missing(world) -> None:
    rows = world.reads()
    for row in rows[:3]:
        row |= dict.fromkeys(("state", "generation", "position", "event_time"))
    report = world.judge([*rows, world.read(60, "a stranger", NOW + HOUR)])
    assert (alerts(report), report.counts["pages.missing"]) == (["missing"], 3)
    assert (report.counts["pages.current"], mismatched(report)) == (58, set())


def test_a_state_with_an_event_that_batch_does_not_know_is_ahead(world) -> None:
    rows = world.reads()
    rows[0] |= world.state(rows[0]["user_id"], rows[0]["timestamp"] + DAY)
    rows[1]["event_time"] = rows[1]["timestamp"] - 1
    report = world.judge(rows)
    assert (alerts(report), report.counts["pages.ahead"], mismatched(report)) == (["ahead"], 2, set())


def test_a_feature_that_is_spread_otherwise_than_in_training_is_named(world) -> None:
    rows = [world.read(number, ROBOT, NOW + 59 * 60_000 + number) for number in range(60)]
    report = world.judge(rows, FeatureCheckConfig())
    assert mismatched(report) == set()
    assert set(alerts(report)) == {"drift"}
    assert any(alert.startswith("drift: user_clicks_1h is spread otherwise") for alert in report.alerts)


def test_item_features_of_earlier_midnights_are_late_not_wrong(world) -> None:
    fresh = [world.read(number, "u0", NOW + number * HOUR, days_back=1) for number in range(1, 11)]
    report = world.judge(fresh)
    assert (report.alerts, mismatched(report)) == ((), set())
    report = world.judge([world.read(100 + number, "u0", NOW + number * HOUR, days_back=2) for number in range(1, 11)])
    assert (alerts(report), mismatched(report)) == (["late_items"], set())


def test_a_check_that_could_compare_nothing_is_an_alert(world) -> None:
    rows = [row | {"position": position(START + 13 * DAY)} for row in world.reads(3)]
    report = world.judge(rows)
    assert report.alerts == ("unchecked: none of the 3 pages could be held against batch",)


def test_what_cannot_be_compared_is_left_out_and_counted(world) -> None:
    rows = world.reads(10)
    other = {**rows[0], "request_id": "x", "state": bytes(8) + rows[0]["state"][8:], "item_layout": 1}
    beyond = {**rows[1], "request_id": "y", "position": position(START + 13 * DAY)}
    report = world.judge([*rows, rows[2], other, beyond])
    assert (report.counts["pages.in"], report.counts["pages.repeated"], report.checked) == (12, 1, 10)
    assert report.counts["pages.other_features"] == report.counts["pages.not_in_batch_yet"] == 1
    assert (alerts(report), mismatched(report)) == (["other_features"], set())
