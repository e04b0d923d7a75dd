"""The event stream on a Redis stream: a message is one entry, its id is its position.

How durable an append is says Redis' append-only file: with `appendfsync always` the answer comes after the disk has it;
with `everysec` a crash of the machine (not of a process) can lose what was accepted in the last second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import redis

from features.secrets import without_passwords
from features.store.connections import ERRORS, Client, connect
from features.stream.base import StreamFullError, StreamUnavailableError
from features.stream.records import FOREIGN, MAX_SEQUENCE, Message, StreamRecord, parts_of, position_of

GROUP = "pagewise"
"""Consumer group that stands where the pipeline is, for `XINFO GROUPS` and tools that show lag."""
READ_CHUNK = 1000
"""Entries per read."""

_TABLE, _ROWS = b"t", b"r"
_FULL = "stream is full"
# An id's second half counts within a millisecond: 16 bits of it fit into a position. Only a clock that stands or was
# set back can exhaust them; the next millisecond is taken then.
_APPEND = f"""
redis.replicate_commands()
if redis.call('XLEN', KEYS[1]) + (#ARGV - 1) / 2 > tonumber(ARGV[1]) then
    return redis.error_reply('{_FULL}')
end
local ids = {{}}
for at = 2, #ARGV, 2 do
    local id = redis.call('XADD', KEYS[1], '*', 't', ARGV[at], 'r', ARGV[at + 1])
    local ms, sequence = id:match('(%d+)-(%d+)')
    if tonumber(sequence) > {MAX_SEQUENCE} then
        redis.call('XDEL', KEYS[1], id)
        id = redis.call('XADD', KEYS[1], string.format('%.0f-0', tonumber(ms) + 1), 't', ARGV[at], 'r', ARGV[at + 1])
    end
    ids[#ids + 1] = id
end
return ids
"""
_COUNT = "return #redis.call('XRANGE', KEYS[1], '-', ARGV[1])"


class RedisStream:
    """An `EventStream` (see `features.stream.base`) on one Redis key, `{namespace}:stream`.

    Args:
        client: A connected client; the stream closes it.
        url: Where it is connected to, for messages.
        namespace: First part of the key.
        max_messages: See `StreamConfig`.
    """

    def __init__(self, client: Client, *, url: str, namespace: str, max_messages: int) -> None:
        self._client = client
        self._url = url
        self._key = f"{namespace}:stream"
        self._max_messages = max_messages
        self._append: Callable[..., list[bytes]] = client.register_script(_APPEND)
        self._count: Callable[..., int] = client.register_script(_COUNT)

    @classmethod
    def connect(cls, url: str, *, namespace: str, max_messages: int, timeout_s: float) -> Self:
        """Connect to a Redis.

        Args:
            url: See `StoreConfig.url`.
            namespace: First part of the key.
            max_messages: See `StreamConfig`.
            timeout_s: Seconds to wait for a connection or an answer.

        Raises:
            StreamUnavailableError: A cluster that does not answer.
        """
        try:
            client = connect(url, timeout_s)
        except ERRORS as error:
            raise _unavailable(url, error) from error
        return cls(client, url=url, namespace=namespace, max_messages=max_messages)

    def append(self, records: Sequence[StreamRecord]) -> list[int]:
        """Append records and return their positions; see `EventStream`."""
        if not records:
            return []
        arguments = [self._max_messages, *(part for record in records for part in record)]
        with self._answering():
            return [_position(entry) for entry in self._append(keys=[self._key], args=arguments)]

    def read_after(self, position: int, limit: int, wait_s: float) -> list[Message]:
        """Return the first messages behind a position; see `EventStream`."""
        block = max(1, round(wait_s * 1000)) if wait_s > 0 else None
        messages: list[Message] = []
        while len(messages) < limit:
            after = messages[-1].position if messages else position
            count = min(READ_CHUNK, limit - len(messages))
            with self._answering():
                found = self._client.xread({self._key: _id(after)}, count=count, block=None if messages else block)
            entries = _entries(found)
            messages += map(_message, entries)
            if len(entries) < count:
                break
        return messages

    def read_range(self, first: int, last: int) -> list[Message]:
        """Return the messages from `first` to `last`; see `EventStream`."""
        messages: list[Message] = []
        while True:
            begin = messages[-1].position + 1 if messages else first
            with self._answering():
                entries = self._client.xrange(self._key, _id(begin), _id(last), count=READ_CHUNK)
            messages += map(_message, entries)
            if len(entries) < READ_CHUNK:
                return messages

    def backlog(self, position: int) -> int:
        """Return the number of messages behind a position; see `EventStream`."""
        with self._answering():
            first = self._client.xrange(self._key, count=1)
            done = (
                self._count(keys=[self._key], args=[_id(position)])
                if first and _message(first[0])[0] <= position
                else 0
            )
            return int(self._client.xlen(self._key)) - done

    def trim(self, position: int) -> None:
        """Let go of the messages up to a position; see `EventStream`."""
        with self._answering():
            self._ensure_group(position)
            self._client.xtrim(self._key, minid=_id(position + 1), approximate=False)

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ensure_group(self, position: int) -> None:
        """Move the group there, and where Redis lost its data, see to it that new messages come behind."""
        try:
            self._client.xgroup_setid(self._key, GROUP, _id(position))
        except redis.ResponseError:  # no stream, or no group yet
            try:
                self._client.xgroup_create(self._key, GROUP, _id(position), mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
        newest = self._client.xinfo_stream(self._key)["last-generated-id"]
        if _position(newest) < position:
            self._client.execute_command("XSETID", self._key, _id(position))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:  # a full disk or memory, a server that may only be read from: told as answers, too
            if _FULL in str(error):
                raise StreamFullError(
                    f"the event stream holds {self._max_messages:,} messages that nobody has read yet: start `pagewise "
                    "stream`, see why it is slow, or raise stream.max_messages"
                ) from error
            raise _unavailable(self._url, error) from error


def _unavailable(url: str, error: Exception) -> StreamUnavailableError:
    return StreamUnavailableError(
        f"the event stream at {without_passwords(url)} does not answer: {error}; start that Redis, correct store.url, "
        "or leave store.url out to use the embedded one"
    )


def _id(position: int) -> str:
    return "{}-{}".format(*parts_of(position))


def _position(entry_id: bytes | str) -> int:
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, sequence = text.split("-")
    return position_of(int(milliseconds), int(sequence))


def _entries(found: Any) -> list[Any]:
    """Return the entries of the one stream in a reply of XREAD, which RESP3 gives as a mapping."""
    if not found:
        return []
    if isinstance(found, dict):
        (parts,) = found.values()
        return [entry for part in parts for entry in part]
    return list(found[0][1])


def _message(entry: tuple[bytes, dict[bytes, bytes]]) -> Message:
    entry_id, fields = entry
    if _TABLE in fields and _ROWS in fields:
        record = StreamRecord(fields[_TABLE].decode(errors="replace"), fields[_ROWS])
    else:  # of a table that there is not, so that the pipeline makes a dead letter of it and goes on
        record = StreamRecord(FOREIGN, repr(fields).encode())
    return Message(_position(entry_id), record)
