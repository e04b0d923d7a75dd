"""Parts that raise, that are slow and that hang: what pages say, and when the parts are asked again."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from models.recommend.interface import NO_ITEM
from models.recommend.ranked import PartRestsError
from models.recommend.recommender import Recommender
from serving.api import RecommendRequest
from serving.fallbacks import Guard, Rest
from serving.metrics import ServiceMetrics
from serving.service import RecommendService


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Part:
    """Stands in for a retriever or a ranker: raises, or waits until it is let go."""

    def __init__(self, name: str, inner) -> None:
        self.name, self.inner = name, inner
        self.raises = self.waits = False
        self.asked = 0
        self.let_go = threading.Event()

    def retrieve(self, requests, k):
        self._misbehave()
        return self.inner.retrieve(requests, k)

    def score(self, requests, items_BK):
        self._misbehave()
        return np.where(items_BK == NO_ITEM, -np.inf, items_BK).astype(np.float32)

    def _misbehave(self) -> None:
        self.asked += 1
        if self.waits:
            self.let_go.wait(60)
        if self.raises:
            raise RuntimeError("out of memory")


@pytest.fixture
def parts(release) -> dict[str, Part]:
    retrievers = {name: Part(name, part) for name, part in release.recommender.retrievers.items() if name != "popular"}
    return {**retrievers, "ranker": Part("ranker", None)}


@pytest.fixture
def service(release, store, parts, monkeypatch) -> RecommendService:
    monkeypatch.setattr("serving.service.PART_REST_S", 3600.0)
    base = release.recommender
    retrievers = [parts.get(name, part) for name, part in base.retrievers.items()]
    maker = Recommender(base.catalogue, retrievers, base.config, base.facts, parts["ranker"])
    return RecommendService(
        dataclasses.replace(release, recommender=maker), store, history_length=10, arm="champion", part_timeout_s=20.0
    )


def fallback_of(service: RecommendService, user_id: str = "u0") -> str | None:
    (answer,) = service.recommend([RecommendRequest(user_id=user_id, page_size=3)])
    assert len(answer.page.items) == 3
    return answer.page.fallback


@pytest.mark.parametrize(
    ("broken", "fallback"),
    [
        (["genrec"], "transitions"),
        (["transitions"], "without_transitions"),
        (["ranker"], "without_ranker"),
        (["genrec", "ranker"], "transitions+without_ranker"),
        (["genrec", "transitions", "ranker"], "popular+without_ranker"),
    ],
)
def test_a_part_that_raises_is_named_and_then_rests(service, parts, broken, fallback):
    assert fallback_of(service) is None
    for name in broken:
        parts[name].raises = True
    before = {name: part.asked for name, part in parts.items()}
    assert [fallback_of(service) for _ in range(3)] == [fallback] * 3
    for name, part in parts.items():
        assert part.asked - before[name] == (1 if name in broken else 3)
        counted = f'pagewise_part_failures_total{{part="{name}",reason="error"}} 1.0'
        assert (counted.encode() in service.metrics.text()) == (name in broken)


def test_a_part_that_is_slow_is_left_out_and_not_asked_while_it_is_still_busy(service, parts, monkeypatch):
    assert fallback_of(service) is None
    monkeypatch.setattr(service._guards._guards["genrec"], "_deadline_s", 0.01)
    parts["genrec"].waits = True
    try:
        assert [fallback_of(service) for _ in range(3)] == ["transitions"] * 3
        assert parts["genrec"].asked == 2
    finally:
        parts["genrec"].let_go.set()
    assert b'pagewise_part_failures_total{part="genrec",reason="deadline"} 1.0' in service.metrics.text()


def test_a_part_is_asked_again_when_it_has_rested():
    clock = Clock()
    guard = Guard("genrec", 20.0, Rest(5.0, clock), ServiceMetrics())
    with pytest.raises(ZeroDivisionError):
        guard.ask(lambda: 1 / 0)
    for clock.now in (0.0, 4.9):
        with pytest.raises(PartRestsError, match="genrec rests for a moment"):
            guard.ask(lambda: 7)
    clock.now = 5.0
    assert guard.ask(lambda: 7) == 7


def test_a_part_that_still_computes_is_not_asked_however_long_it_has_rested():
    clock, let_go, done = Clock(), threading.Event(), threading.Event()
    guard = Guard("genrec", 0.01, Rest(5.0, clock), ServiceMetrics())
    with pytest.raises(PartRestsError, match="genrec did not answer in time"):
        guard.ask(lambda: (let_go.wait(60), done.set()))
    clock.now = 100.0
    with pytest.raises(PartRestsError, match="genrec rests for a moment"):
        guard.ask(lambda: 7)
    let_go.set()
    assert done.wait(60)
    guard._running.result(60)
    guard._deadline_s = 20.0
    assert guard.ask(lambda: 7) == 7
