from __future__ import annotations

import re

import pytest

from pipelines.simulator.config import SimulateConfig


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="days: expected at least 1, got 0") as caught:
        SimulateConfig(days=0, epsilon=0.0, start="2025-13-01", temperature=0.01)
    assert "epsilon: expected above 0, at most 1, got 0.0" in str(caught.value)
    assert "start: expected a date YYYY-MM-DD, got '2025-13-01'" in str(caught.value)
    assert "temperature: expected at least 0.1, got 0.01" in str(caught.value)


@pytest.mark.parametrize(
    ("items", "candidates", "message"),
    [
        (79, 40, "items: expected at least 8 * page_items = 80, got 79"),
        (1000, 42, "candidates: expected a multiple of 4, at least 4 * page_items = 40 and at most items / 2 = 500"),
        (1000, 36, "got 36"),
        (100, 60, "at most items / 2 = 50, got 60"),
    ],
)
def test_a_request_must_have_enough_candidates(items: int, candidates: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SimulateConfig(items=items, candidates=candidates)
