"""The event stream on a folder in which files appear: what a nightly copy, a log shipper or a Kafka sink can write.

A file `events-*.jsonl` (or `pages-`, `items-`, `features-`) counts once it has this name: write it under another one
and rename it. It never changes afterwards. A message is a block of it: the lines that begin within so many bytes. The
index, a file in the folder, gives each file its positions for good, in the order in which files were found.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pyarrow.fs as pafs

from features.stream.base import StreamUnavailableError
from features.stream.records import MAX_SEQUENCE, STREAM_TABLES, Message, StreamRecord, parts_of, position_of
from features.workspace import sync_folder, write_atomically

INDEX = ".pagewise-index.jsonl"
BLOCK_BYTES = 1 << 20
WAIT_STEP_S = 0.05
SETTLED_NS = 2_000_000_000
"""A folder that was changed so recently is looked through again: a later change may leave it the same time."""
_NAME = re.compile(rf"({'|'.join(STREAM_TABLES)})-.*\.jsonl")


@dataclasses.dataclass(frozen=True)
class _File:
    """An indexed file: the positions of its blocks are `position`, `position + 1`, ..."""

    name: str
    position: int
    blocks: int

    @property
    def last(self) -> int:
        return self.position + self.blocks - 1


class DirectoryStream:
    """An `EventStream` (see `features.stream.base`) on a local folder.

    Args:
        folder: Where files appear; created if absent.

    Raises:
        StreamUnavailableError: It is no folder, or cannot be written to.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).absolute()
        self._files: list[_File] = []
        self._indexed: tuple[int, ...] | None = None
        with self._reaching():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._index()

    def append(self, records: Sequence[StreamRecord]) -> list[int]:
        """Append records, a file each, and return their positions; see `EventStream` (a crash may append some)."""
        names = [f"{record.table}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl" for record in records]
        with self._reaching():
            for name, record in zip(names, records, strict=True):
                write_atomically(pafs.LocalFileSystem(), str(self._folder / name), record.rows)
            sync_folder(str(self._folder))
            self._index()
        positions = {file.name: file.last for file in self._files}
        return [positions[name] for name in names]

    def read_after(self, position: int, limit: int, wait_s: float) -> list[Message]:
        """Return the first messages behind a position; see `EventStream`."""
        deadline = time.monotonic() + wait_s
        while True:
            with self._reaching():
                self._index()
                messages = self._messages(position + 1, None, limit)
            if messages or time.monotonic() >= deadline:
                return messages
            time.sleep(min(WAIT_STEP_S, max(0.0, deadline - time.monotonic())))

    def read_range(self, first: int, last: int) -> list[Message]:
        """Return the messages from `first` to `last`; see `EventStream`."""
        with self._reaching():
            if not self._files or self._files[-1].last < last:
                self._index()
            return self._messages(first, last, None)

    def backlog(self, position: int) -> int:
        """Return the number of messages behind a position; see `EventStream`."""
        with self._reaching():
            self._index()
        return sum(max(0, file.last - max(position, file.position - 1)) for file in self._files)

    def trim(self, position: int) -> None:
        """Let the files be: they belong to whoever wrote them."""

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _index(self) -> None:
        """Give positions to files that have none yet; processes take turns."""
        stamp = self._stamp()
        if stamp is not None and stamp == self._indexed:
            return
        known_before = (self._folder / INDEX).exists()
        with open(self._folder / INDEX, "a+b") as index:
            fcntl.flock(index, fcntl.LOCK_EX)
            index.seek(0)
            text = index.read()
            whole = text[: text.rfind(b"\n") + 1]
            if len(whole) < len(text):  # the last writer was killed in the middle of a line
                index.truncate(len(whole))
            self._files = [_File(**json.loads(line)) for line in whole.splitlines()]
            known = {file.name for file in self._files}
            found = [
                entry for entry in os.scandir(self._folder) if _NAME.fullmatch(entry.name) and entry.name not in known
            ]
            new = [
                self._entered(entry)
                for entry in sorted(found, key=lambda entry: (entry.stat().st_mtime_ns, entry.name))
            ]
            if new:
                index.write(b"".join(json.dumps(dataclasses.asdict(file)).encode() + b"\n" for file in new))
                index.flush()
                os.fsync(index.fileno())
        if not known_before:
            sync_folder(str(self._folder))
        self._indexed = stamp

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what changes with folder and index; None while a change might not show, as clocks are coarse."""
        folder, index = os.stat(self._folder), self._folder / INDEX
        if not index.exists() or time.time_ns() - folder.st_mtime_ns < SETTLED_NS:
            return None
        return folder.st_mtime_ns, index.stat().st_mtime_ns, index.stat().st_size

    def _entered(self, entry: os.DirEntry[str]) -> _File:
        blocks = max(1, -(-entry.stat().st_size // BLOCK_BYTES))
        if blocks > MAX_SEQUENCE:
            raise StreamUnavailableError(f"{entry.path}: expected at most {MAX_SEQUENCE} MiB, got {blocks}; split it")
        newest = parts_of(self._files[-1].last)[0] if self._files else 0
        file = _File(entry.name, position_of(max(time.time_ns() // 1_000_000, newest + 1), 0), blocks)
        self._files.append(file)
        return file

    def _messages(self, first: int, last: int | None, limit: int | None) -> list[Message]:
        messages: list[Message] = []
        for file in self._files:
            for position in range(
                max(first, file.position), min(file.last, last if last is not None else file.last) + 1
            ):
                if limit is not None and len(messages) >= limit:
                    return messages
                messages.append(Message(position, self._record(file, position - file.position)))
        return messages

    def _record(self, file: _File, block: int) -> StreamRecord:
        """Return the lines that begin within a block."""
        start, end = block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES
        with open(self._folder / file.name, "rb") as stream:
            if start:
                stream.seek(start - 1)
                stream.readline()
            begin = stream.tell()
            text = stream.read(max(0, end - begin))
            if text and not text.endswith(b"\n"):
                text += stream.readline()
        return StreamRecord(file.name.partition("-")[0], text.rstrip(b"\n"))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, StreamUnavailableError):
                raise
            raise StreamUnavailableError(
                f"the event stream in {self._folder} cannot be used: {error}; expected a local folder that can be "
                "read and written (stream.folder)"
            ) from error
