"""Which stream a configuration means."""

from __future__ import annotations

from pathlib import Path

from features.stream.base import EventStream
from features.stream.config import DIRECTORY, KAFKA, StreamConfig
from features.stream.directory import DirectoryStream
from features.stream.redis_stream import RedisStream


def open_stream(config: StreamConfig, store_url: str, namespace: str, timeout_s: float = 2.0) -> EventStream:
    """Open the configured stream.

    Args:
        config: Which.
        store_url: URL of the online store's Redis, in which a Redis stream lies, too.
        namespace: First part of the store's keys; in Kafka the consumer group.
        timeout_s: Seconds to wait for a connection or an answer.

    Raises:
        StreamUnavailableError: It does not answer.
        ValueError: Kafka's client is not installed, its settings are no settings, or the topic has several partitions.
    """
    if config.source == KAFKA:
        return _open_kafka(config, namespace, timeout_s)
    if config.source == DIRECTORY:
        assert config.folder is not None
        return DirectoryStream(config.folder)
    return RedisStream.connect(store_url, namespace=namespace, max_messages=config.max_messages, timeout_s=timeout_s)


def require_client(config: StreamConfig) -> None:
    """Check, before anything is started, that the stream's client can be imported.

    Raises:
        ValueError: Kafka's is not installed.
    """
    if config.source != KAFKA:
        return
    try:
        import confluent_kafka  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"stream.source=kafka: {error.name} is not installed; pip install -r infra/requirements/kafka.txt"
        ) from error


def _open_kafka(config: StreamConfig, namespace: str, timeout_s: float) -> EventStream:
    assert config.servers is not None
    require_client(config)
    from features.stream.kafka import KafkaStream

    properties = {} if config.properties is None else _properties(Path(config.properties))
    return KafkaStream(config.servers, config.topic, group=namespace, timeout_s=timeout_s, properties=properties)


def _properties(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise FileNotFoundError(f"stream.properties: expected a file of lines name=value, got {file}")
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    wrong = [name for name, sign, _ in pairs if not sign]
    if wrong:  # not the whole line, which may be a password
        raise ValueError(f"stream.properties: expected lines name=value in {file}, got {len(wrong)} without a =")
    return {name.strip(): value.strip() for name, _, value in pairs}
