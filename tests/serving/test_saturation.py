"""More requests than the machine can answer: some are answered in time, the others are told so at once."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "load"))

from open_loop import Report, offer, user_body

from features.store.config import StoreConfig
from features.workspace import Workspace
from serving.config import ServeConfig
from serving.run import RunningService, start_background

SECONDS = 8.0
BODY = user_body([f"u{number}" for number in range(20)])  # half of them have a history


@pytest.fixture(scope="module")
def service(workspace: Workspace, release_folder: Path) -> Iterator[RunningService]:
    with start_background(workspace, release_folder, StoreConfig(), ServeConfig(port=0)) as service:
        yield service


def offered(service: RunningService, rate: float) -> Report:
    return asyncio.run(offer(f"{service.url}/v1/recommend", BODY, rate, SECONDS))


@pytest.mark.slow
@pytest.mark.integration
def test_beyond_saturation_as_many_are_answered_as_at_saturation(service):
    offered(service, 50)  # warms up
    most = max(offered(service, rate).statuses[200] for rate in (300, 600))
    for times in (2, 8):
        report = offered(service, times * most / SECONDS)
        kinds = Counter(answer.kind for answer in report.answers)
        late = sum(answer.fallback == "deadline" for answer in report.answers)
        assert set(kinds) == {"200", "503 overloaded"}
        assert kinds["200"] > most / 2  # the generator, and whatever else runs here, take their share
        assert late < 0.01 * kinds["200"]
        assert report.quantiles_ms([503])[0] < report.quantiles_ms([200])[0]  # refused at once, not after waiting
