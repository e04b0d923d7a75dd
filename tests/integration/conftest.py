"""Fixtures of the tests that put faults into a shop under load."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

FOLDERS = ("integration", "pipelines/batch", "models/recommend")
sys.path += [str(Path(__file__).parents[1] / folder) for folder in FOLDERS]

if TYPE_CHECKING:
    from fault_world import World


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What is told of each fault; written at the end to the JSON file that PAGEWISE_FAULTS names."""
    rows: dict[str, Any] = {}
    yield rows
    path = Path(os.environ.get("PAGEWISE_FAULTS") or tmp_path_factory.getbasetemp() / "faults.json")
    path.write_text(json.dumps(rows, indent=2))
    print(f"\n{path}: {path.read_text()}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from fault_world import World

    with contextlib.ExitStack() as opened:
        yield World(tmp_path_factory.mktemp("faults") / "shop", opened)
