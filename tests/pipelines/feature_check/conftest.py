import logging
import sys
from pathlib import Path

import pytest

from features.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "batch"))  # batch_cases

from check_world import World, build_world

logging.getLogger("apache_beam").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return build_world(tmp_path_factory.mktemp("check"))


@pytest.fixture(scope="session")
def world(built: Workspace) -> World:
    """For what changes nothing in it."""
    return World.of(built)


@pytest.fixture
def own_world(built: Workspace, tmp_path: Path) -> World:
    return World.copy_of(built, tmp_path / "workspace")
