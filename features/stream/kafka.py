"""The event stream on a Kafka topic of one partition: a message is one record, with its table in a header.

Kafka counts messages by offsets, the pipeline by positions that hold a time. A message's position is its timestamp, or
the next number behind its predecessor's where that is not more: so positions rise whatever the producers' clocks say,
and who begins at the same message with the same position finds the same ones behind it. Where to begin is kept in the
offset that a consumer group has committed, with the position in its metadata. ::

    offset     4      5      6      7        committed: 6, metadata: position of 5
    done       x      x      -      -
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from features.stream.base import StreamUnavailableError
from features.stream.records import FOREIGN, Message, StreamRecord, position_of

_log = logging.getLogger(__name__)

HEADER = "table"
"""Header of a message that names the table of its rows."""
READ_CHUNK = 1000
"""Messages per read."""
POLL_S = 0.1
KNOWN = 1 << 16
"""Messages whose offsets are remembered, so that reading goes on where it ended."""
MESSAGE_BYTES = 900_000
"""A record of more is cut between rows into several messages: by default brokers and clients refuse a million."""
LATEST_MS = (1 << 46) - 1
"""Timestamps behind this one are taken for it: positions have 63 bits."""


class _Place(NamedTuple):
    """A message by its position and its offset."""

    position: int
    offset: int


class KafkaStream:
    """An `EventStream` (see `features.stream.base`) on a topic.

    Appending is acknowledged by all replicas in sync; a crash may append some of the records. Nothing is ever removed:
    how long messages are kept is the topic's setting.

    Args:
        servers: `host:port` of some brokers, joined by commas.
        topic: Its name.
        group: Consumer group whose committed offset says where the pipeline stands.
        timeout_s: Seconds to wait for an answer.
        properties: Further settings of librdkafka, such as `security.protocol`.
        partition: The partition to use; default: the only one.

    Raises:
        StreamUnavailableError: No broker answers, or there is no such topic.
        ValueError: The topic has several partitions, or librdkafka does not know a property.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        group: str,
        timeout_s: float,
        properties: Mapping[str, str] | None = None,
        partition: int | None = None,
    ) -> None:
        self._servers, self._timeout_s = servers, timeout_s
        self._reading = threading.Lock()
        self._known: deque[_Place] = deque(maxlen=KNOWN)
        self._next, self._done = -1, -1
        shared = {"bootstrap.servers": servers, "log_level": 0, **(properties or {})}
        reading = {"group.id": group, "enable.auto.commit": False, "enable.partition.eof": True}
        writing = {"acks": "all", "enable.idempotence": True, "linger.ms": 0}
        try:
            self._producer = Producer({**shared, **writing, "message.timeout.ms": max(1, round(timeout_s * 1000))})
            self._consumer = Consumer({**shared, **reading, "auto.offset.reset": "earliest"})
        except KafkaException as error:
            raise ValueError(f"stream.properties: {error.args[0].str()}") from error
        self._partition = topic, self._partition_of(topic, partition)

    def append(self, records: Sequence[StreamRecord]) -> None:
        """Append records; see `EventStream` (a crash may append some)."""
        errors: list[KafkaError | None] = []
        messages = [(table, piece) for table, rows in records for piece in _pieces(rows)]
        with self._answering():
            for table, rows in messages:
                self._producer.produce(
                    self._partition[0],
                    rows,
                    partition=self._partition[1],
                    headers=[(HEADER, table.encode())],
                    on_delivery=lambda error, _: errors.append(error),
                )
            deadline = time.monotonic() + 2 * self._timeout_s
            while len(errors) < len(messages) and time.monotonic() < deadline:
                self._producer.poll(0.05)
            failed = [error for error in errors if error is not None]
            if failed or len(errors) < len(messages):
                raise KafkaException(failed[0] if failed else KafkaError(KafkaError._MSG_TIMED_OUT))

    def read_after(self, position: int, limit: int, wait_s: float) -> list[Message]:
        """Return the first messages behind a position; see `EventStream`."""
        messages: list[Message] = []
        with self._reading, self._answering():
            for message in self._messages(self._before(position), limit, wait_s):
                if message.position > position:
                    messages.append(message)
                if len(messages) >= limit:
                    break
        return messages

    def read_range(self, first: int, last: int) -> list[Message]:
        """Return the messages from `first` to `last`; see `EventStream`."""
        messages: list[Message] = []
        with self._reading, self._answering():
            for message in self._messages(self._before(first - 1), READ_CHUNK):
                if first <= message.position <= last:
                    messages.append(message)
                if message.position >= last:
                    break
        return messages

    def backlog(self, position: int) -> int:
        """Return the number of messages behind a position; see `EventStream`."""
        with self._reading, self._answering():
            return max(0, self._ends()[1] - 1 - self._found(position).offset)

    def trim(self, position: int) -> None:
        """Remember that the messages up to a position are done, as the group's committed offset."""
        if position == self._done:
            return
        with self._reading, self._answering():
            place = self._found(position)
            done = TopicPartition(*self._partition, place.offset + 1, metadata=str(place.position))
            self._consumer.commit(offsets=[done], asynchronous=False)
            while len(self._known) > 1 and self._known[1].position <= position:
                self._known.popleft()
        self._done = position

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        with contextlib.suppress(RuntimeError):  # closed before
            self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _partition_of(self, topic: str, wanted: int | None) -> int:
        with self._answering():
            found = self._producer.list_topics(topic, timeout=self._timeout_s).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
        if wanted is None and len(found.partitions) != 1:
            raise ValueError(
                f"stream.topic {topic!r}: expected one partition, for the order of all messages counts, got "
                f"{len(found.partitions)}; create the topic with --partitions 1"
            )
        return next(iter(found.partitions)) if wanted is None else wanted

    def _before(self, position: int) -> _Place:
        """Return a known place at or before a position, from which reading finds what lies behind it."""
        if not self._known or self._known[0].position > position:
            self._known.clear()
            self._known.append(self._beginning(position))
        return next((place for place in reversed(self._known) if place.position <= position), self._known[0])

    def _beginning(self, position: int) -> _Place:
        """Return where the group stands: before the first message, where it is new, or what it has had is gone."""
        (committed,) = self._consumer.committed([TopicPartition(*self._partition)], timeout=self._timeout_s)
        if committed.error is not None:
            raise KafkaException(committed.error)
        first, end = self._ends()
        if 0 <= committed.offset < first:
            _log.error(
                "%d messages of topic %s (offsets %d to %d) were removed by its retention before they were taken up: "
                "they are lost to this pipeline; raise retention.ms or retention.bytes above its longest stop",
                first - committed.offset,
                self._partition[0],
                committed.offset,
                first - 1,
            )
        known = int(committed.metadata) if committed.metadata else position
        return _Place(known, committed.offset - 1 if first <= committed.offset <= end else first - 1)

    def _found(self, position: int) -> _Place:
        """Return the last message up to a position."""
        if self._before(position).position < position:
            for message in self._messages(self._before(position), READ_CHUNK):
                if message.position >= position:
                    break
        return self._before(position)

    def _messages(self, place: _Place, limit: int, wait_s: float = 0.0) -> Iterator[Message]:
        """Yield the messages behind a place up to the end; where there is none, wait for one."""
        end, came = self._ends()[1], False
        waiting, answering = (time.monotonic() + seconds for seconds in (wait_s, self._timeout_s))
        while place.offset + 1 < end or not came:
            missing, now = end - place.offset - 1, time.monotonic()
            if missing <= 0 and now >= waiting:
                return
            if missing > 0 and now >= answering:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            wait = POLL_S if missing > 0 else waiting - now
            for raw in self._polled(place.offset + 1, min(limit, max(missing, 1)), wait):
                error, offset = raw.error(), raw.offset() or 0
                if error is None:
                    place = _Place(max(place.position + 1, position_of(_time_of(raw), 0)), offset)
                    if place.position > self._known[-1].position:
                        self._known.append(place)
                    came, answering = True, now + self._timeout_s
                    yield Message(place.position, _record(raw))
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                elif offset >= end:  # up to there only marks of transactions were left
                    end = place.offset + 1

    def _polled(self, offset: int, count: int, wait_s: float) -> list[KafkaMessage]:
        """Return what comes from an offset on, and tells of the end."""
        if self._next != offset:
            self._consumer.assign([TopicPartition(*self._partition, offset)])
            self._next = offset
        found = self._consumer.consume(min(count, READ_CHUNK), wait_s)
        self._next = max([self._next, *(1 + (raw.offset() or 0) for raw in found if raw.error() is None)])
        return found

    def _ends(self) -> tuple[int, int]:
        """Return the first offset that is kept, and the next one to be given."""
        ends = self._consumer.get_watermark_offsets(TopicPartition(*self._partition), timeout=self._timeout_s)
        if ends is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return ends

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (KafkaException, BufferError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise StreamUnavailableError(
                f"the event stream on Kafka at {self._servers} does not answer: {reason}; start the brokers, create "
                "the topic, or correct stream.servers and stream.topic"
            ) from error


def _pieces(rows: bytes) -> Iterator[bytes]:
    """Cut lines into messages, between rows."""
    start = 0
    while len(rows) - start > MESSAGE_BYTES:
        end = rows.rfind(b"\n", start, start + MESSAGE_BYTES)
        if end < 0:
            end = rows.find(b"\n", start + MESSAGE_BYTES)
        if end < 0:
            break
        yield rows[start:end]
        start = end + 1
    yield rows[start:]


def _time_of(raw: KafkaMessage) -> int:
    """Return when a message was made or accepted, milliseconds."""
    return min(max(raw.timestamp()[1], 0), LATEST_MS)


def _record(raw: KafkaMessage) -> StreamRecord:
    headers = dict(raw.headers() or [])
    table = headers.get(HEADER)
    if isinstance(table, bytes):
        return StreamRecord(table.decode(errors="replace"), raw.value() or b"")
    return StreamRecord(FOREIGN, repr(raw.value()).encode())
