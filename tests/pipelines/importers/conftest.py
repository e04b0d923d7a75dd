import logging
import sys
from pathlib import Path

import pytest

from features.workspace import Workspace
from pipelines.importers import import_dataset

sys.path.insert(0, str(Path(__file__).parent))
logging.getLogger("apache_beam").setLevel(logging.ERROR)


@pytest.fixture
def imported(tmp_path):
    """Import a case into a fresh workspace: (report, workspace)."""

    def run(case, workspace="workspace", **options):
        target = Workspace(tmp_path / workspace)
        source = case.write(tmp_path / "source")
        return import_dataset(case.name, source, target, **options), target

    return run
