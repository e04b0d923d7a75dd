"""Options of the event stream and of the pipeline that reads it; imports nothing heavy."""

from __future__ import annotations

import dataclasses

REDIS, DIRECTORY, KAFKA = "redis", "directory", "kafka"
SOURCES = (REDIS, DIRECTORY, KAFKA)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Where events arrive, and how the streaming pipeline takes them up."""

    source: str = REDIS
    """`redis`: a Redis stream in the online store's Redis. `directory`: a folder in which files appear. `kafka`: a
    topic of Apache Kafka; needs `pip install -r infra/requirements/kafka.txt`."""

    folder: str | None = None
    """Folder of source `directory`: finished files `events-*.jsonl`, `pages-*.jsonl`, `items-*.jsonl`,
    `features-*.jsonl`."""

    servers: str | None = None
    """Brokers of source `kafka`: `host:port`, joined by commas."""

    topic: str = "pagewise"
    """Topic of source `kafka`; it has one partition."""

    properties: str | None = None
    """File with further settings of librdkafka for source `kafka`, a line `name=value` each, such as
    `security.protocol=SASL_SSL`; passwords belong there, for settings are printed and saved."""

    max_messages: int = 1_000_000
    """Messages that may wait; beyond that an append is refused, so that a pipeline that stands still cannot fill the
    memory of Redis. A message holds what one request sent: about 300 bytes an event."""

    range_rows: int = 20_000
    """About the most rows taken up at once: memory stays bounded, whatever waits."""

    interval_s: float = 0.25
    """Seconds from one range's beginning to the next one's, at least, while less than `range_rows` waits."""

    lateness_hours: float = 48.0
    """An event this much older than the newest one so far is too late: it becomes a dead letter."""

    future_minutes: float = 10.0
    """An event this far ahead of the clock is a mistake: it becomes a dead letter."""

    shards: int = 1
    """Parts of users and of items that are folded apart: more only where workers run apart, in one process a part more
    costs 10 % of the processor time."""

    compact_ranges: int = 256
    """After this many ranges their files become one per table and day."""

    metrics_port: int | None = None
    """Port on which `/metrics` answers; null for none, 0 for any free one."""

    metrics_host: str = "127.0.0.1"
    """Address of that port; anything but loopback shows the figures to the network, without a password."""

    until_empty: bool = False
    """End once nothing waits any more, instead of waiting for more."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        mistakes = []
        if self.source not in SOURCES:
            mistakes.append(f"source: expected one of {', '.join(SOURCES)}, got {self.source!r}")
        if (self.source == DIRECTORY) != (self.folder is not None):
            mistakes.append(
                f"folder: expected one with source=directory only, got {self.folder!r} with {self.source!r}"
            )
        if (self.source == KAFKA) != bool(self.servers):
            mistakes.append(f"servers: expected some with source=kafka only, got {self.servers!r} with {self.source!r}")
        for name in ("max_messages", "range_rows", "interval_s", "lateness_hours", "shards"):
            if not getattr(self, name) > 0:
                mistakes.append(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not self.future_minutes >= 0:
            mistakes.append(f"future_minutes: expected at least 0, got {self.future_minutes}")
        if self.compact_ranges < 2:
            mistakes.append(f"compact_ranges: expected at least 2, got {self.compact_ranges}")
        if self.metrics_port is not None and not 0 <= self.metrics_port < 65536:
            mistakes.append(f"metrics_port: expected 0 to 65535, got {self.metrics_port}")
        if mistakes:
            raise ValueError("stream: " + "; ".join(mistakes))
