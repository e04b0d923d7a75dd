"""One job per workspace: a lock that the operating system gives up by itself when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class LockedError(ValueError):
    """Another process runs the job."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which tells the holder's process id.

    The lock is the kernel's (`flock`), not the file: a file left by a process that is gone hinders nobody.

    Raises:
        LockedError: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LockedError(
                f"process {file.read().strip() or 'unknown'} is running a job in this workspace (lock {path}); wait "
                "until it ends, or stop it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
