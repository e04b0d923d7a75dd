"""A day's check on Beam: what one process finds at once, whatever the shards; the command and what it leaves."""

from __future__ import annotations

import dataclasses
import json

import pytest
from batch_cases import DAY, START
from check_world import CONFIG, DATE, NO_DRIFT, TODAY, carts_as_clicks, position, twice, without_newest

from models.training.tracking import mlflow_client, tracking_uri
from pagewise.main import main
from pipelines.feature_check.config import FeatureCheckConfig
from pipelines.feature_check.job import EXPERIMENT

pytestmark = pytest.mark.integration
NOW = START + TODAY * DAY


def spoilt(world) -> list[dict]:
    """Reads with faults of many kinds."""
    rows = world.reads(40)
    for page, change in enumerate((twice, without_newest, carts_as_clicks, twice)):
        rows[page] |= world.state(rows[page]["user_id"], rows[page]["timestamp"], change)
    rows[4] |= dict.fromkeys(("state", "generation", "position", "event_time"))
    rows[5] |= dict.fromkeys(("item_features", "item_layout", "items_read"))
    rows[6]["position"] = position(START + 13 * DAY)
    return [*rows, rows[7], world.read(99, "a stranger", NOW + 5)]


@pytest.mark.parametrize("shards", [1, 4])
def test_beam_finds_what_one_process_finds(own_world, shards) -> None:
    rows, config = spoilt(own_world), FeatureCheckConfig()
    own_world.log(rows)
    expected = own_world.judge(rows, config)
    report = own_world.check(config, batch=dataclasses.replace(CONFIG, shards=shards))
    assert report.alerts == expected.alerts
    assert report.features == expected.features
    assert (report.counts, report.staleness) == (expected.counts, expected.staleness)
    assert report.notes == ("1 pages were left out: the store was ahead of the tables; let the daily job run first",)


def test_the_command_says_what_it_found_and_fails_only_when_asked_to(own_world, capsys) -> None:
    own_world.log(spoilt(own_world))
    folder = str(own_world.workspace.local_path())
    overrides = ["batch.split.validation_days=1", "batch.split.test_days=2"]
    assert main(["check-features", "--workspace", folder, "--day", DATE, *overrides]) == 0
    said = capsys.readouterr().out
    assert "features of 2024-03-11: 40 pages checked: 38 current, 1 behind, 1 late of these, 1 missing, 0 ahead" in said
    assert "ALERT: mismatch: user_clicks_7d differs from batch" in said
    path = own_world.workspace.local_path("stream/log/feature_log", f"date={DATE}", "check.json")
    assert f"report: {path}" in said
    written = json.loads(path.read_bytes())
    assert [alert for alert in written["alerts"] if alert.startswith("missing")]
    client = mlflow_client(tracking_uri(own_world.workspace))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    rates = {one["name"]: one["mismatch_rate"] for one in written["features"]}
    assert run.data.metrics["mismatch.user_clicks_7d"] == pytest.approx(rates["user_clicks_7d"])
    assert run.data.metrics["alerts"] == len(written["alerts"])
    assert main(["check-features", "--workspace", folder, "--fail-on-alert", *overrides]) == 1


@pytest.mark.parametrize("day", ["2026-13-45", "20260131", "yesterday"])
def test_a_day_is_one_of_the_calendar(tmp_path, capsys, day: str) -> None:
    assert main(["check-features", "--workspace", str(tmp_path), "--day", day]) == 2
    assert f"--day {day}: expected a day of the calendar as YYYY-MM-DD" in capsys.readouterr().err


def test_a_day_that_cannot_be_checked_is_refused(own_world) -> None:
    with pytest.raises(ValueError, match=r"no page's features were logged; .*serve.feature_log_share above 0"):
        own_world.check()
    own_world.log([*own_world.reads(2), own_world.read(7, "u1", START + 20 * DAY)])
    with pytest.raises(ValueError, match="--day 2024-03-05: expected a day with logged features, one of 2024-03-11, 2"):
        own_world.check(day="2024-03-05")
    with pytest.raises(ValueError, match=r"--day 2024-03-21: batch knows events up to 2024-03-12 only; run `pagewise"):
        own_world.check(day="2024-03-21")
    report = own_world.check(NO_DRIFT)
    assert (report.day, report.checked, report.alerts) == (DATE, 2, ())
