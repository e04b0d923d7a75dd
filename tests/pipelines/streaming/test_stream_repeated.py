"""A pipeline that is built once: what its workers leave out, and that it runs again and again."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import statesampler
from apache_beam.runners.worker.statecache import StateCache

from pipelines.streaming.repeated import SAMPLING_MS, RepeatedPipeline

pytestmark = pytest.mark.integration
seen: list[tuple[int, list[int]]] = []


class Looking(beam.DoFn):
    """Notes how often the worker is looked at, and a side input."""

    def process(self, element: bytes, side: Iterable[int]) -> Iterable[bytes]:
        seen.append((statesampler.get_current_tracker().sampling_period_ms, sorted(side)))
        return ()


def build(pipeline: beam.Pipeline) -> None:
    numbers = pipeline | "numbers" >> beam.Create([1, 2, 3], reshuffle=False)
    _ = pipeline | beam.Impulse() | beam.ParDo(Looking(), beam.pvalue.AsIter(numbers))


def test_a_worker_is_looked_at_often_and_caches_nothing(monkeypatch) -> None:
    caches, usual = list[StateCache](), (statesampler.StateSampler, worker_handlers.STATE_CACHE_SIZE_MB)
    monkeypatch.setattr(worker_handlers, "StateCache", lambda size: caches.append(StateCache(size)) or caches[-1])
    pipeline = RepeatedPipeline([], build)
    seen.clear()
    pipeline.run()
    pipeline.run()
    assert seen == [(SAMPLING_MS, [1, 2, 3])] * 2
    assert [cache.is_cache_enabled() for cache in caches] == [False] * len(caches)
    assert len(caches) >= 2
    assert (statesampler.StateSampler, worker_handlers.STATE_CACHE_SIZE_MB) == usual
