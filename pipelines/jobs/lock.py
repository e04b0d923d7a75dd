"""One job per workspace: a lock that the operating system gives up by itself when its holder dies."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from features.workspace import Workspace

LOCK = "daily.lock"


class LockedError(ValueError):
    """Another process runs the job."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which tells the holder's process id and since when.

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
        file.write(f"{os.getpid()} (since {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC)")
        file.flush()
        yield


@contextlib.contextmanager
def writing_tables(workspace: Workspace) -> Iterator[None]:
    """Hold the lock of the daily job, so that nobody else writes tables or models that this process reads.

    A workspace that is not on this machine has no lock: whoever runs jobs there sees to it that they take turns.

    Raises:
        LockedError: A daily job, or a command that writes tables or models, is running.
    """
    with exclusive(workspace.local_path("runs", LOCK)) if workspace.is_local else contextlib.nullcontext():
        yield
