"""What every event stream does, on each that there is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from features.store.embedded import EmbeddedRedis
from features.stream.base import EventStream, StreamFullError, StreamUnavailableError
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import MAX_SEQUENCE, StreamRecord, parts_of, position_of
from features.stream.redis_stream import FOREIGN, GROUP, RedisStream

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("stream")) as running:
        yield running


@pytest.fixture
def redis_stream(server: EmbeddedRedis, request: pytest.FixtureRequest) -> Iterator[EventStream]:
    with open_stream(StreamConfig(max_messages=3000), server.url, request.node.name) as opened:
        yield opened


@pytest.fixture
def kafka_stream(kafka_broker: str, request: pytest.FixtureRequest) -> Iterator[EventStream]:
    """The first partition of a topic of its own."""
    from features.stream.kafka import KafkaStream

    topic = request.node.name.replace("[", "-").replace("]", "")
    with KafkaStream(kafka_broker, topic, group=f"group-{topic}", timeout_s=20.0, partition=0) as opened:
        yield opened


@pytest.fixture(params=["redis", "directory", "kafka"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStream]:
    """What the conformance suite runs on."""
    if request.param == "redis":
        yield request.getfixturevalue("redis_stream")
        return
    if request.param == "kafka":
        yield request.getfixturevalue("kafka_stream")
        return
    with open_stream(StreamConfig(source="directory", folder=str(tmp_path / "in")), "", "") as opened:
        yield opened


def records(*names: str) -> list[StreamRecord]:
    return [StreamRecord("events", name.encode()) for name in names]


def appended(stream: EventStream, more: list[StreamRecord]) -> list[int]:
    """Append records and return their positions, as readers see them."""
    before = stream.read_after(0, 10_000, 0)
    told = stream.append(more)
    behind = before[-1].position if before else 0
    positions = [message.position for message in stream.read_after(behind, len(more), 0)]
    assert told in (None, positions)
    return positions


def names(messages) -> list[str]:
    return [message.record.rows.decode() for message in messages]


def test_messages_come_in_the_order_of_their_positions(stream: EventStream) -> None:
    positions = appended(stream, records("a", "b")) + appended(stream, records("c"))
    assert positions == sorted(set(positions))
    messages = stream.read_after(0, 10, 0)
    assert names(messages) == ["a", "b", "c"]
    assert [message.position for message in messages] == positions
    assert messages[0].record == StreamRecord("events", b"a")


def test_reading_goes_on_behind_a_position(stream: EventStream) -> None:
    positions = appended(stream, records("a", "b", "c", "d"))
    assert names(stream.read_after(positions[0], 2, 0)) == ["b", "c"]
    assert names(stream.read_range(positions[1], positions[2])) == ["b", "c"]
    assert stream.read_after(positions[3], 10, 0) == []


def test_many_messages_are_read_in_pieces(redis_stream: EventStream) -> None:
    wanted = [str(number) for number in range(2500)]
    positions = redis_stream.append(records(*wanted))
    assert names(redis_stream.read_after(0, 2100, 0)) == wanted[:2100]
    assert names(redis_stream.read_range(positions[1], positions[-1])) == wanted[1:]


def test_nothing_there_is_waited_for(stream: EventStream) -> None:
    assert stream.read_after(0, 1, 0.01) == []
    later = threading.Timer(0.05, stream.append, [records("a")])
    later.start()
    assert names(stream.read_after(0, 1, 30)) == ["a"]
    later.join()


def test_backlog_counts_what_lies_behind(stream: EventStream) -> None:
    assert stream.backlog(0) == 0
    positions = appended(stream, records("a", "b", "c"))
    assert [stream.backlog(position) for position in (0, *positions)] == [3, 2, 1, 0]


def test_trimmed_messages_are_gone(redis_stream: EventStream) -> None:
    positions = redis_stream.append(records("a", "b", "c"))
    redis_stream.trim(positions[1])
    redis_stream.trim(positions[1])
    assert names(redis_stream.read_after(0, 10, 0)) == ["c"]
    assert redis_stream.backlog(positions[1]) == 1


def test_a_full_stream_refuses_all_or_nothing(redis_stream: EventStream) -> None:
    positions = redis_stream.append(records(*map(str, range(2999))))
    with pytest.raises(StreamFullError, match=r"3,000 messages .* raise stream\.max_messages"):
        redis_stream.append(records("a", "b"))
    assert redis_stream.backlog(0) == 2999
    redis_stream.trim(positions[0])
    assert len(redis_stream.append(records("a", "b"))) == 2


def test_new_messages_come_behind_a_position_that_was_trimmed(redis_stream: EventStream) -> None:
    """Redis lost its data, and the clock was set back: what comes then must not lie where nobody reads any more."""
    ahead = position_of(4_000_000_000_000, 7)
    redis_stream.trim(ahead)
    (position,) = redis_stream.append(records("a"))
    assert position > ahead
    assert names(redis_stream.read_after(ahead, 10, 0)) == ["a"]


def test_a_millisecond_never_runs_out_of_positions(redis_stream: EventStream) -> None:
    last = position_of(4_000_000_000_000, MAX_SEQUENCE - 1)
    redis_stream.trim(last)
    positions = redis_stream.append(records("a", "b", "c"))
    assert [parts_of(position) for position in positions] == [
        (4_000_000_000_000, MAX_SEQUENCE),
        (4_000_000_000_001, 0),
        (4_000_000_000_001, 1),
    ]
    assert names(redis_stream.read_after(last, 10, 0)) == ["a", "b", "c"]


def test_the_group_stands_where_the_pipeline_is(server: EmbeddedRedis, redis_stream: EventStream, request) -> None:
    positions = redis_stream.append(records("a", "b"))
    redis_stream.trim(positions[0])
    with redis.Redis.from_url(server.url) as client:
        (group,) = client.xinfo_groups(f"{request.node.name}:stream")
    assert group["name"] == GROUP.encode()
    assert group["last-delivered-id"].decode() == "{}-{}".format(*parts_of(positions[0]))


def test_an_entry_of_somebody_else_is_read_as_what_nobody_knows(server, redis_stream, request) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.xadd(f"{request.node.name}:stream", {"user": "ann", "did": "click"})
    redis_stream.append(records("a"))
    foreign, own = redis_stream.read_after(0, 10, 0)
    assert (foreign.record.table, own.record) == (FOREIGN, *records("a"))
    assert b"ann" in foreign.record.rows


def test_a_redis_that_is_not_there_is_named(tmp_path) -> None:
    url = f"unix://{tmp_path}/nobody.sock"
    with (
        RedisStream.connect(url, namespace="n", max_messages=1, timeout_s=0.2) as stream,
        pytest.raises(StreamUnavailableError, match=r"nobody\.sock does not answer"),
    ):
        stream.append(records("a"))
