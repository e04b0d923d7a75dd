"""What the streaming pipeline tells Prometheus; one registry per pipeline, so that several live in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from features.stream.records import STREAM_TABLES, Message, parts_of
from pipelines.streaming.log import Range

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
OTHER = "other"
"""Label of tables that do not travel: senders choose their names, and each label is a series for ever."""
LAG_SAMPLES = 64
"""Messages per range whose lag is recorded, evenly spread."""


class StreamMetrics:
    """Counters, gauges and histograms of a pipeline.

    Attributes:
        rows: Rows by table and what became of them: `in`, `implied`, `logged`, `duplicates`, `dropped.<reason>`.
        ranges: Ranges that are done.
        backlog: Messages that wait.
        watermark: Time of the newest event, Unix seconds.
        position_time: When the last message that is done was accepted, Unix seconds.
        lag: Seconds from accepted to readable in the online store.
        range_seconds: Seconds to take up a range.
        retries: Ranges taken up again because store or stream did not answer.
        items_appended: Items appended to the champion's catalogue.
        append_failures: Times that could not be done.
        generation: Of the store, folded into.
        last_lag: Longest lag of the last range, seconds.
        last_backlog: Messages that waited after the last range.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rows = Counter("pagewise_stream_rows", "Rows", ["table", "what"], registry=self.registry)
        self.ranges = self._counter("ranges", "Ranges done")
        self.backlog = self._gauge("backlog_messages", "Messages that wait")
        self.watermark = self._gauge("watermark_seconds", "Newest event, Unix seconds")
        self.position_time = self._gauge("position_seconds", "Acceptance of the last message done, Unix seconds")
        self.lag = self._histogram("lag_seconds", "Seconds from accepted to readable")
        self.range_seconds = self._histogram("range_seconds", "Seconds to take up a range")
        self.retries = self._counter("retries", "Ranges taken up again because store or stream did not answer")
        self.items_appended = self._counter("items_appended", "Items appended to the champion's catalogue")
        self.append_failures = self._counter("append_failures", "Appends to the champion's catalogue that failed")
        self.generation = self._gauge("store_generation", "Generation of the online store that is folded into")

        self.last_lag, self.last_backlog = 0.0, 0

    def serve(self, host: str, port: int) -> int:
        """Answer `/metrics` on an address and port of this machine, 0 for any free one, and return the port.

        Raises:
            ValueError: The port is taken.
        """
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ValueError(
                f"stream.metrics_port: cannot listen on {host}:{port}: {error.strerror}; stop what listens there, or "
                "set another port"
            ) from error
        return int(server.server_port)

    def done(self, taken: Range, messages: Sequence[Message], seconds: float, backlog: int) -> None:
        """Record a range that is done, and how many messages wait behind it."""
        now = time.time()
        self.ranges.inc()
        self.range_seconds.observe(seconds)
        self.watermark.set(taken.newest / 1000)
        self.position_time.set(parts_of(taken.last)[0] / 1000)
        self._count(taken.counts)
        self.backlog.set(backlog)
        self.last_backlog = backlog
        self.last_lag = max(0.0, now - parts_of(messages[0].position)[0] / 1000) if messages else 0.0
        for message in messages[:: max(1, len(messages) // LAG_SAMPLES)]:
            self.lag.observe(max(0.0, now - parts_of(message.position)[0] / 1000))

    def _count(self, counts: Mapping[str, int]) -> None:
        for name, rows in counts.items():
            table, what = name.split(".", 1)
            self.rows.labels(table if table in STREAM_TABLES else OTHER, what).inc(rows)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"pagewise_stream_{name}", help, registry=self.registry)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(f"pagewise_stream_{name}", help, registry=self.registry)

    def _histogram(self, name: str, help: str) -> Histogram:
        return Histogram(f"pagewise_stream_{name}", help, buckets=_SECONDS, registry=self.registry)
