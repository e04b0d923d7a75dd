import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shop():
    """The module `two_tower_cases.py` beside this file: a small shop."""
    spec = importlib.util.spec_from_file_location("two_tower_cases", Path(__file__).with_name("two_tower_cases.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
