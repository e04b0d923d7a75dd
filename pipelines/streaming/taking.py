"""Taking messages from the stream: as many as may be worked on at once, in pieces for the workers."""

from __future__ import annotations

from collections.abc import Sequence

from features.stream.base import EventStream
from features.stream.records import Message

RANGE_BYTES = 32 * 2**20
"""Text of one range; with `range_rows` it bounds the memory, whatever a message holds."""
PIECE_BYTES = 4 * 2**20
FIRST_READ, LARGEST_READ = 64, 4096
"""Messages per read: few until it is known how large they are."""
Span = tuple[int, int]
"""First and last position of a piece of a range."""
_handed_over: dict[str, dict[Span, list[Message]]] = {}


def take(stream: EventStream, position: int, rows: int, wait_s: float) -> list[Message]:
    """Return messages behind a position: at least one, if there is any, at most about `rows` rows.

    Args:
        stream: Where they are.
        position: The last one that was taken up.
        rows: Number of rows after which no more messages are taken.
        wait_s: Seconds to wait where there is none yet.
    """
    taken: list[Message] = []
    count, held_rows, held_bytes = FIRST_READ, 0, 0
    while held_rows < rows and held_bytes < RANGE_BYTES:
        found = stream.read_after(taken[-1].position if taken else position, count, 0.0 if taken else wait_s)
        for message in found:
            if held_rows and (held_rows >= rows or held_bytes >= RANGE_BYTES):
                return taken
            taken.append(message)
            held_rows += message.record.rows.count(b"\n") + 1
            held_bytes += len(message.record.rows)
        if len(found) < count:
            return taken
        by_bytes = (RANGE_BYTES - held_bytes) * len(taken) // max(held_bytes, 1)
        room = min((rows - held_rows) * len(taken) // held_rows, by_bytes)
        count = max(1, min(room, LARGEST_READ))
    return taken


def hand_over(owner: str, messages: Sequence[Message]) -> list[Span]:
    """Cut messages into pieces of some megabytes, and return the first and last position of each.

    These, not what the pieces hold, travel to the workers: `read_piece` reads it anew, but in this process.

    Args:
        owner: The driver, as in `Task`; what it handed over before is forgotten.
        messages: Of one range, in order.
    """
    pieces: list[list[Message]] = []
    size = PIECE_BYTES
    for message in messages:
        if size >= PIECE_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(message)
        size += len(message.record.rows)
    _handed_over[owner] = {(piece[0].position, piece[-1].position): piece for piece in pieces}
    return [*_handed_over[owner]]


def read_piece(owner: str, span: Span, stream: EventStream) -> list[Message]:
    """Return the messages of a piece: as the driver read them, if it did so in this process, else from the stream."""
    found = _handed_over.get(owner, {}).pop(span, None)
    return stream.read_range(*span) if found is None else found


def forget_pieces(owner: str) -> None:
    """Let go of what a driver handed over."""
    _handed_over.pop(owner, None)


def joined(messages: Sequence[Message]) -> dict[str, bytes]:
    """Return the lines of each table that messages hold, in the order of the stream."""
    texts: dict[str, list[bytes]] = {}
    for message in messages:
        texts.setdefault(message.record.table, []).append(message.record.rows)
    return {table: b"\n".join(lines) for table, lines in texts.items()}
