import logging
import sys
from pathlib import Path

import pytest

from features.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))
logging.getLogger("apache_beam").setLevel(logging.ERROR)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")
