"""The event stream on Kafka: what is not the same as on every stream; against the broker inside librdkafka."""

from __future__ import annotations

import logging
import re

import pytest

from features.stream.base import StreamUnavailableError
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import FOREIGN, StreamRecord, parts_of, position_of

kafka = pytest.importorskip("confluent_kafka", reason="needs pip install -r infra/requirements/kafka.txt")
from features.stream.kafka import HEADER, MESSAGE_BYTES, KafkaStream  # noqa: E402  (needs the client)

pytestmark = pytest.mark.integration

TIMEOUT_S = 20.0


def opened(kafka_broker: str, topic: str, group: str = "readers") -> KafkaStream:
    return KafkaStream(kafka_broker, topic, group=group, timeout_s=TIMEOUT_S, partition=0)


def produce(kafka_broker: str, topic: str, *times: int) -> None:
    """Append the messages `0`, `1`, ... made at these milliseconds."""
    producer = kafka.Producer({"bootstrap.servers": kafka_broker, "log_level": 0})
    for number, time in enumerate(times):
        producer.produce(topic, str(number).encode(), partition=0, timestamp=time, headers=[(HEADER, b"events")])
    assert producer.flush(TIMEOUT_S) == 0


def rows(messages) -> list[bytes]:
    return [message.record.rows for message in messages]


def test_positions_rise_where_clocks_go_back(kafka_broker: str) -> None:
    produce(kafka_broker, "clocks", 5_000, 3_000, 5_000, 7_000)
    with opened(kafka_broker, "clocks") as stream:
        positions = [message.position for message in stream.read_after(0, 10, 0)]
    first = position_of(5_000, 0)
    assert positions == [first, first + 1, first + 2, position_of(7_000, 0)]
    assert [parts_of(position)[0] for position in positions] == [5_000, 5_000, 5_000, 7_000]


def test_another_process_finds_the_same_positions_from_where_the_group_stands(kafka_broker: str) -> None:
    produce(kafka_broker, "again", 9_000, 1_000, 1_000, 1_000, 9_500)
    with opened(kafka_broker, "again") as stream:
        stream.trim(0)
        messages = stream.read_after(0, 10, 0)
        stream.trim(messages[1].position)
    with opened(kafka_broker, "again") as other:
        assert other.read_range(messages[2].position, messages[3].position) == messages[2:4]
        assert other.read_after(messages[3].position, 10, 0) == messages[4:]
        assert other.backlog(messages[1].position) == 3
        assert other.backlog(messages[4].position) == 0


def test_a_new_group_begins_behind_the_position_that_is_done(kafka_broker: str) -> None:
    """The workspace had another source before."""
    produce(kafka_broker, "changed", 1_000, 2_000)
    done = position_of(4_000_000, 3)
    with opened(kafka_broker, "changed") as stream:
        stream.trim(done)
        assert [message.position for message in stream.read_after(done, 10, 0)] == [done + 1, done + 2]


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(kafka_broker: str) -> None:
    produce(kafka_broker, "anew", 1_000, 2_000)
    done = position_of(3_000, 0)
    consumer = kafka.Consumer({"bootstrap.servers": kafka_broker, "group.id": "anew", "log_level": 0})
    before = kafka.TopicPartition("anew", 0, 500, metadata=str(done))
    consumer.commit(offsets=[before], asynchronous=False)
    consumer.close()
    with opened(kafka_broker, "anew", "anew") as stream:
        assert rows(stream.read_after(done, 10, 0)) == [b"0", b"1"]


def test_messages_that_retention_removed_before_they_were_read_are_told(kafka_broker: str, caplog) -> None:
    """librdkafka's own broker keeps five megabytes."""
    with opened(kafka_broker, "short", "late") as stream:
        stream.append([StreamRecord("events", b"first")] * 2)
        stream.trim(stream.read_after(0, 1, 0)[0].position)
        stream.append([StreamRecord("events", b"x" * 800_000)] * 9)
    with opened(kafka_broker, "short", "late") as stream, caplog.at_level(logging.ERROR):
        assert 0 < len(stream.read_after(0, 20, 0)) < 9
    (told,) = caplog.messages
    assert re.fullmatch(r"\d+ messages of topic short \(offsets 1 to \d+\) were removed by its retention .*", told)


def test_many_messages_are_read_in_pieces(kafka_broker: str) -> None:
    with opened(kafka_broker, "many") as stream:
        stream.append([StreamRecord("events", b"%d" % number) for number in range(2_500)])
        first = stream.read_after(0, 1_200, 0)
        rest = stream.read_after(first[-1].position, 5_000, 0)
        assert rows(first + rest) == [b"%d" % number for number in range(2_500)]
        assert stream.read_range(first[3].position, rest[-2].position) == [*first[3:], *rest[:-1]]


def test_a_large_record_travels_as_several_messages_cut_between_rows(kafka_broker: str) -> None:
    lines = [b"%d" % number * 5_000 for number in range(10)] * 50
    lines[7] = b"x" * 950_000  # longer than a message should be, but still accepted
    with opened(kafka_broker, "large") as stream:
        stream.append([StreamRecord("pages", b"\n".join(lines)), StreamRecord("events", b"one")])
        found = stream.read_after(0, 20, 0)
    assert [message.record.table for message in found] == ["pages"] * 5 + ["events"]
    sizes = [len(message.record.rows) for message in found]
    assert sizes[1] == 950_000
    assert max(sizes[:1] + sizes[2:]) <= MESSAGE_BYTES
    assert b"\n".join(rows(found[:-1])).split(b"\n") == lines


def test_a_message_without_a_table_is_of_somebody_else(kafka_broker: str) -> None:
    producer = kafka.Producer({"bootstrap.servers": kafka_broker, "log_level": 0})
    producer.produce("foreign", b"ann clicked", partition=0)
    assert producer.flush(TIMEOUT_S) == 0
    with opened(kafka_broker, "foreign") as stream:
        (message,) = stream.read_after(0, 10, 0)
    assert message.record.table == FOREIGN
    assert b"ann clicked" in message.record.rows


def test_a_topic_of_several_partitions_is_refused(kafka_broker: str) -> None:
    config = StreamConfig(source="kafka", servers=kafka_broker, topic="several")
    with pytest.raises(
        ValueError, match=r"stream\.topic 'several': expected one partition, .* got 4; create the topic"
    ):
        open_stream(config, "", "group", TIMEOUT_S)


def test_brokers_that_are_not_there_are_named() -> None:
    config = StreamConfig(source="kafka", servers="127.0.0.1:1")
    with pytest.raises(StreamUnavailableError, match=r"Kafka at 127\.0\.0\.1:1 does not answer: .*; start the brokers"):
        open_stream(config, "", "group", 0.3)


def test_a_property_that_there_is_not_is_named(tmp_path, kafka_broker: str) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# of the cluster\n\nsecurity.protocoll=SSL\n")
    config = StreamConfig(source="kafka", servers=kafka_broker, properties=str(file))
    with pytest.raises(ValueError, match=r"stream\.properties: No such configuration property: .*protocoll"):
        open_stream(config, "", "group", 1.0)


def test_a_file_of_properties_that_is_none_is_named(tmp_path, kafka_broker: str) -> None:
    config = StreamConfig(source="kafka", servers=kafka_broker, properties=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"stream\.properties: expected a file of lines name=value, got .*none"):
        open_stream(config, "", "group", 1.0)
    (tmp_path / "none").write_text("sasl.password secret")
    with pytest.raises(ValueError, match="got 1 without a =") as error:
        open_stream(config, "", "group", 1.0)
    assert "secret" not in str(error.value)
