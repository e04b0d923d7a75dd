"""One Redis for all tests of the streaming pipeline; each has a namespace of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.store.embedded import EmbeddedRedis

sys.path.insert(0, str(Path(__file__).parent))  # stream_world, crashes


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url
