"""The request log: one line of JSON per request, without addresses, bodies, keys or user ids."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path

MOST_BYTES = 64 * 2**20
"""A file that is larger becomes `FILE.1`, in place of the one before it; pipes and devices never do."""
LOOK_EVERY = 256
"""Lines between looks at the file's size, and whether somebody moved it away."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK  # whoever reads a pipe too slowly loses lines


class RequestLog:
    """Appends lines to a file; several processes may write the same one, a line is written in one piece.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = self._open()

    def write(self, entry: Mapping[str, object]) -> bool:
        """Append one line; a full disk must not fail a request, so the answer says whether it was written."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, **entry}, separators=(",", ":")) + "\n"
        try:
            self._lines += 1
            if self._lines % LOOK_EVERY == 0:
                self._look()
            return os.write(self._handle, line.encode()) == len(line)
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def _look(self) -> None:
        """Open the file again if it was moved, after moving it where it is too large."""
        own = os.fstat(self._handle)
        try:
            moved = self._path.stat().st_ino != own.st_ino
            if not moved and self._path.is_file() and own.st_size > MOST_BYTES:
                self._path.rename(f"{self._path}.1")
                moved = True
        except FileNotFoundError:
            moved = True
        if moved:
            os.close(self._handle)
            self._handle = self._open()

    def _open(self) -> int:
        return os.open(self._path, _FLAGS, 0o640)
