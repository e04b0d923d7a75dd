"""Which stream a configuration means."""

from __future__ import annotations

from features.stream.base import EventStream
from features.stream.config import DIRECTORY, KAFKA, StreamConfig
from features.stream.directory import DirectoryStream
from features.stream.redis_stream import RedisStream


def open_stream(config: StreamConfig, store_url: str, namespace: str, timeout_s: float = 2.0) -> EventStream:
    """Open the configured stream.

    Args:
        config: Which.
        store_url: URL of the online store's Redis, in which a Redis stream lies, too.
        namespace: First part of the store's keys.
        timeout_s: Seconds to wait for Redis to accept a connection or to answer.

    Raises:
        StreamUnavailableError: It does not answer.
        ValueError: The source needs a Beam runner that is not at hand.
    """
    if config.source == KAFKA:
        raise ValueError(
            "stream.source=kafka: expected a Beam runner with the Kafka connector (Flink, Dataflow; it runs in Java), "
            "but the pipeline runs in this process; use source=redis, or have a Kafka consumer write files for "
            "source=directory"
        )
    if config.source == DIRECTORY:
        assert config.folder is not None
        return DirectoryStream(config.folder)
    return RedisStream.connect(store_url, namespace=namespace, max_messages=config.max_messages, timeout_s=timeout_s)
