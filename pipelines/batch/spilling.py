"""Where pieces of tables wait between the steps of a pipeline that runs in this process: in a file, not in memory.

Beam's in-process runner holds all that is grouped in memory, several times over. So what is grouped are references of a
few bytes, while the pieces wait in a file that has no name: it goes with its process, however that ends. A runner that
hands pieces to other processes, each of which has no such file, gets the pieces themselves.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_MARK = b"spilled\0"
"""No Arrow stream begins so: its first four bytes are 0xFFFFFFFF."""
_REFERENCE = struct.Struct(f"<{len(_MARK)}sQQ")


class _File:
    """One file per process while pipelines run in it; appended to and read by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipelines = 0
        self._folder: str | None = None
        self._file: IO[bytes] | None = None

    def open(self, folder: str | None) -> None:
        with self._lock:
            self._pipelines += 1
            self._folder = folder

    def close(self) -> None:
        with self._lock:
            self._pipelines -= 1
            if not self._pipelines and self._file is not None:
                file, self._file = self._file, None
                with contextlib.suppress(OSError):  # on a full disk, of what nobody will read any more
                    file.close()

    def put(self, piece: bytes) -> bytes:
        with self._lock:
            if not self._pipelines:
                return piece
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  (`close` closes it)
            offset = self._file.seek(0, 2)
            self._file.write(piece)
        return _REFERENCE.pack(_MARK, offset, len(piece))

    def get(self, offset: int, size: int) -> bytes:
        with self._lock:
            assert self._file is not None, "a piece outlived its pipeline"
            self._file.seek(offset)
            return self._file.read(size)


_FILE = _File()


@contextlib.contextmanager
def spilling(folder: str | None) -> Iterator[None]:
    """Let pieces wait in a file in `folder`, by default the system's for temporary files, until the block ends."""
    _FILE.open(folder)
    try:
        yield
    finally:
        _FILE.close()


def put_aside(piece: bytes) -> bytes:
    """Return a reference to a piece that waits in the file, or the piece where no pipeline spills in this process."""
    return _FILE.put(piece)


def fetch(piece: bytes) -> bytes:
    """Return the piece that was put aside, or handed on as it is."""
    if not piece.startswith(_MARK):
        return piece
    _, offset, size = _REFERENCE.unpack(piece)
    return _FILE.get(offset, size)
