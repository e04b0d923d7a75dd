"""Logs whose propensities are right pass, and others do not, from rows to the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from log_world import POLICY, logged_pages
from logged_pages import page, table

from pipelines.replay.calibrating import count_shown
from pipelines.replay.calibration import Calibration
from pipelines.replay.choosers import Opinion
from pipelines.replay.config import ReplayConfig
from pipelines.replay.logged import read_batch


def one_item_pages(shown: list[str], propensity: float, **columns: Any) -> Calibration:
    rows = [page(number, [item], propensities=[propensity], **columns) for number, item in enumerate(shown)]
    batch = read_batch(table(rows), ReplayConfig())
    counts = Calibration()
    count_shown(counts, batch, None, np.zeros(batch.there_RP.shape, dtype=np.int64))
    return counts


def test_items_on_pages_of_one_item() -> None:
    """Of 60 pages 20, 30 and 10; each item had a third."""
    counts = one_item_pages(["a"] * 20 + ["b"] * 30 + ["c"] * 10, 1 / 3)
    assert counts.tests()["items"].statistic == pytest.approx((0 + 10**2 + 10**2) / 20)
    assert list(counts.tests()) == ["items"]


def test_items_stand_where_the_context_says() -> None:
    first = one_item_pages(["a"] * 20 + ["b"] * 40, 0.5)
    first.merge(one_item_pages(["a"] * 30 + ["b"] * 30, 0.5, context=[("position", "2")]))
    assert first.tests()["items"].statistic == pytest.approx((10**2 + 10**2) / 30 + 0)
    assert first.tests()["items"].df == pytest.approx(2)


def test_pages_that_name_candidates_and_impossible_propensities_are_not_counted_by_item() -> None:
    assert one_item_pages(["a", "b"] * 30, 0.5, candidates=["a", "b"]).tests() == {}
    assert one_item_pages(["a", "b"] * 30, float("nan")).tests() == {}
    assert one_item_pages(["a", "b"] * 30, 1.5).tests() == {}


@pytest.mark.parametrize(("temperature", "right"), [(1.0, True), (2.0, False)])
def test_pages_of_three_slots_drawn_at_a_temperature(temperature: float, right: bool) -> None:
    """Pages drawn at temperature 1: as the log says, or where it says 2."""
    pages = table([{**one, "temperature": temperature} for one in logged_pages(3000, users=100, seed=1)])
    batch = read_batch(pages, ReplayConfig())
    scores_RK = np.stack(pages["candidate_scores"].to_pylist()).astype(np.float64)
    places = [dict(zip(row, range(len(row)), strict=True)) for row in pages["candidates"].to_pylist()]
    choice_RP = np.array(
        [[place[item] for item in row] for place, row in zip(places, pages["items"].to_pylist(), strict=True)]
    )
    policy = type(POLICY)(epsilon=POLICY.epsilon, temperature=temperature)
    counts = Calibration()
    logger = Opinion(policy=policy, scores_RK=scores_RK, eligible_RK=np.ones(scores_RK.shape, dtype=bool))
    count_shown(counts, batch, logger, choice_RP)
    assert list(counts.tests()) == ["bins"]
    assert (counts.tests()["bins"].p > 0.001) is right
