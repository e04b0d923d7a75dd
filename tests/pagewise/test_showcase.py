"""The demo's marketplace in time: it ends yesterday, and one that stands stays where it is."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from features.schemas import EVENTS
from features.workspace import Workspace
from pagewise.settings import Settings
from pagewise.showcase import simulated, until_yesterday
from pipelines.simulator.config import SimulateConfig

TODAY = dt.date(2026, 3, 15)
SETTINGS = Settings(simulate=SimulateConfig(days=14))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def hold(workspace: Workspace, config: SimulateConfig) -> None:
    """Let the workspace hold a marketplace."""
    table = workspace.table("events")
    part = table.write_part(EVENTS.empty_table(), shard=0)
    table.commit([part], notes={"dataset": "simulated", "config": dataclasses.asdict(config)})


def test_the_last_of_fourteen_days_is_yesterday(workspace) -> None:
    assert until_yesterday(workspace, SETTINGS, TODAY).simulate == SimulateConfig(days=14, start="2026-03-01")


def test_a_start_that_was_set_is_kept(workspace) -> None:
    settings = Settings(simulate=SimulateConfig(start="2020-02-02"))
    assert until_yesterday(workspace, settings, TODAY) == settings


def test_a_marketplace_that_stands_stays_where_it_is(workspace) -> None:
    hold(workspace, SimulateConfig(days=14, start="2026-02-01"))
    assert until_yesterday(workspace, SETTINGS, TODAY).simulate.start == "2026-02-01"


def test_another_marketplace_begins_anew(workspace) -> None:
    hold(workspace, SimulateConfig(days=13, start="2026-02-01"))
    assert until_yesterday(workspace, SETTINGS, TODAY).simulate.start == "2026-03-01"


def test_the_demo_of_the_next_day_finds_its_marketplace(workspace) -> None:
    small = Settings(simulate=SimulateConfig(users=20, items=80, candidates=40, days=2))
    first = until_yesterday(workspace, small, TODAY)
    simulated(workspace, first, lambda line: None)
    assert until_yesterday(workspace, small, TODAY + dt.timedelta(days=1)) == first
