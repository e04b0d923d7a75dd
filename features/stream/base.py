"""The event stream's interface: one conformance suite holds for all who implement it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from features.stream.records import Message, StreamRecord


class StreamUnavailableError(ConnectionError):
    """The stream cannot be reached, or did not answer in time: what was to be appended may be there or not."""


class StreamFullError(StreamUnavailableError):
    """As many messages wait as may wait: nothing was appended."""


class EventStream(Protocol):
    """An ordered log of records with positions that rise; position 0 lies before the first.

    Every method raises `StreamUnavailableError` when the stream does not answer. Appending again after that is
    harmless: rows have keys, and the pipeline drops what it has had.
    """

    def append(self, records: Sequence[StreamRecord]) -> list[int] | None:
        """Append records, all or none; returns once they are as durable as the stream is.

        At most some thousand at once: others wait meanwhile.

        Returns:
            Their positions, None where only a reader of the stream can tell these.

        Raises:
            StreamFullError: Too many messages wait; none of the records was appended.
        """
        ...

    def read_after(self, position: int, limit: int, wait_s: float) -> list[Message]:
        """Return the first messages behind a position.

        Args:
            position: The last one known.
            limit: Most messages returned.
            wait_s: Seconds to wait where there is none yet.
        """
        ...

    def read_range(self, first: int, last: int) -> list[Message]:
        """Return the messages from `first` to `last`, both included."""
        ...

    def backlog(self, position: int) -> int:
        """Return the number of messages behind a position."""
        ...

    def trim(self, position: int) -> None:
        """Let go of the messages up to a position: nobody will ask for them again, none will come there."""
        ...

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
