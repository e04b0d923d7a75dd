from __future__ import annotations

import pytest

from features.workspace import Workspace
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.job import SimulationReport, simulate
from pipelines.simulator.oracle import ORACLE_FILE, Oracle
from pipelines.simulator.world import World, build_world

SMALL = SimulateConfig(users=400, items=200, days=4, page_items=5, candidates=40, new_items_per_day=6)


@pytest.fixture(scope="session")
def small_config() -> SimulateConfig:
    return SMALL


@pytest.fixture(scope="session")
def small_world() -> World:
    return build_world(SMALL, seed=7)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, SimulationReport]:
    workspace = Workspace(tmp_path_factory.mktemp("simulated"))
    return workspace, simulate(SMALL, workspace, seed=7)


@pytest.fixture(scope="session")
def oracle(simulated: tuple[Workspace, SimulationReport]) -> Oracle:
    return Oracle.load(simulated[0].local_path(*ORACLE_FILE))
