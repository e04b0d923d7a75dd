import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def ranker_worker():
    """The module `ranker_worker.py` beside this file: users who like one category each, and the ranker's training."""
    return load("ranker_worker")


@pytest.fixture(scope="session")
def alignment_worker():
    """The module `alignment_worker.py` beside this file: the ranker's shop with a supervised GenRec."""
    return load("alignment_worker")


@pytest.fixture(scope="session")
def sharding_worker():
    """The module `sharding_worker.py` beside this file: a model with unpooled and pooled tables."""
    return load("sharding_worker")


@pytest.fixture(scope="session")
def collisions_worker():
    """The module `collisions_worker.py` beside this file: streams of changing ids."""
    return load("collisions_worker")


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess]:
    """Run `python ARGUMENTS`; a run that hangs is ended together with the processes it started."""
    return _launch


def _launch(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"training_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
