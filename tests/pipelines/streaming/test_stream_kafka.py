"""The pipeline on Kafka, as the broker inside librdkafka plays it: everything is as it is on Redis."""

from __future__ import annotations

import pytest
import stream_world as world

from features.stream.config import StreamConfig
from features.stream.opening import open_stream

kafka = pytest.importorskip("confluent_kafka", reason="needs pip install -r infra/requirements/kafka.txt")
from features.stream.kafka import KafkaStream  # noqa: E402  (needs the client)

pytestmark = pytest.mark.integration


@pytest.fixture
def options(kafka_broker: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(KafkaStream, "_partition_of", lambda stream, topic, wanted: 0)  # this broker makes four
    return {"source": "kafka", "servers": kafka_broker, "topic": "shop"}


def test_log_and_store_are_those_of_the_same_messages_on_redis(tmp_path, redis_url, options) -> None:
    messages = world.messages()
    for part in (messages[:9], messages[9:]):
        world.append(redis_url, "redis", part)
        world.take_up(tmp_path / "redis", redis_url, "redis")
        with open_stream(StreamConfig(**options), redis_url, "kafka", 20.0) as stream:
            stream.append(part)
        world.take_up(tmp_path / "kafka", redis_url, "kafka", **options)
    assert world.counts(tmp_path / "kafka") == world.counts(tmp_path / "redis")
    assert world.logged(tmp_path / "kafka") == world.logged(tmp_path / "redis")
    assert world.held(redis_url, "kafka") == world.held(redis_url, "redis")
