import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def worker():
    """The module `worker.py` beside this file: the toy model that all training tests share."""
    spec = importlib.util.spec_from_file_location("training_worker", Path(__file__).with_name("worker.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_worker"] = module
    spec.loader.exec_module(module)
    return module
