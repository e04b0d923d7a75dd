"""A pipeline that is run again and again, and built only once.

Building a pipeline and handing it to a runner costs Beam a quarter of a second of processor time, more than running it
on some thousand rows. So the pipeline is built once and learns from a file what it is to work on; the in-process runner
gets the same translated pipeline every time. Other runners get it built anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from pipelines.batch.runner import DEFAULT_RUNNER, pipeline_options, running_pipeline


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
            FnApiRunner().run_via_runner_api(self._translated, self._options).wait_until_finish()
        finally:
            worker_log.setLevel(level)
