import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def worker():
    """The module `worker.py` beside this file: the toy model that the tests of the loop share."""
    return load("worker")


@pytest.fixture(scope="session")
def genrec_worker():
    """The module `genrec_worker.py` beside this file: a small shop and GenRec's training on it."""
    return load("genrec_worker")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"training_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
