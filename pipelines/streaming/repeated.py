"""A pipeline that is run again and again, and built only once.

Building a pipeline and handing it to a runner costs Beam a quarter of a second of processor time, more than running it
on some thousand rows. So the pipeline is built once and learns from a file what it is to work on; the in-process runner
gets the same translated pipeline every time. Other runners get it built anew.

Two things are of no use here and cost much of a short run; Beam has no options for them. The end of each bundle waits
until the thread wakes that samples what state the worker is in: up to a fifth of the bundle's time, so here it wakes
every 5 ms at least. And side inputs are measured for a cache, with all that their classes refer to; they are read once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.worker import statesampler
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from pipelines.batch.runner import DEFAULT_RUNNER, pipeline_options, running_pipeline

SAMPLING_MS = 5
"""Milliseconds between two looks of Beam's state sampler; Beam's own is 200, reached step by step."""


class RepeatedPipeline:
    """Runs one pipeline as often as wanted.

    Args:
        flags: Beam's own options; see `pipelines.batch.runner.pipeline_options`.
        build: Adds the transforms to a pipeline.
    """

    def __init__(self, flags: Sequence[str], build: Callable[[beam.Pipeline], Any]) -> None:
        self._flags, self._build = flags, build
        self._options = pipeline_options(flags)
        standard, direct = self._options.view_as(StandardOptions), self._options.view_as(DirectOptions)
        self._translated: Any = None
        if standard.runner == DEFAULT_RUNNER and direct.direct_running_mode == "in_memory":
            pipeline = beam.Pipeline(options=self._options)
            build(pipeline)
            self._translated = pipeline.to_runner_api(default_environment=EmbeddedPythonEnvironment.default())

    def run(self) -> None:
        """Run the pipeline and return when it is done; errors as in `running_pipeline`."""
        if self._translated is None:
            with running_pipeline(self._flags) as pipeline:
                self._build(pipeline)
            return
        RuntimeValueProvider.set_runtime_options({})
        worker_log = logging.getLogger("apache_beam")
        level = worker_log.level
        worker_log.setLevel(logging.CRITICAL)  # Beam logs an exception with its whole graph before it raises it
        try:
            with _lean_worker():
                FnApiRunner().run_via_runner_api(self._translated, self._options).wait_until_finish()
        finally:
            worker_log.setLevel(level)


class _WakefulSampler(statesampler.StateSampler):
    """What tells Beam the state of a worker, and wakes often."""

    def __init__(self, prefix: str, counter_factory: Any) -> None:
        super().__init__(prefix, counter_factory, SAMPLING_MS)


@contextlib.contextmanager
def _lean_worker() -> Iterator[None]:
    """Let workers that begin within the block wait for no sampler, and cache no side inputs."""
    usual = statesampler.StateSampler, worker_handlers.STATE_CACHE_SIZE_MB
    statesampler.StateSampler, worker_handlers.STATE_CACHE_SIZE_MB = _WakefulSampler, 0
    try:
        yield
    finally:
        statesampler.StateSampler, worker_handlers.STATE_CACHE_SIZE_MB = usual
