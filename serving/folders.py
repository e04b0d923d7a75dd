"""Ray's folder below /tmp: one per service, locked while its process lives; the next service removes those left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "pw-"
LOCK = "lock"


def take_folder(cleanup: contextlib.ExitStack, parent: Path = Path("/tmp")) -> Path:
    """Make a folder that is removed by `cleanup`, or by the next call after this process was killed.

    Args:
        cleanup: Removes the folder when it is closed.
        parent: The default is short, because paths of Ray's sockets must stay below 107 bytes.
    """
    for left in parent.glob(f"{PREFIX}*/{LOCK}"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    handle = os.open(folder / "new", os.O_CREAT | os.O_WRONLY)
    cleanup.callback(os.close, handle)
    fcntl.flock(handle, fcntl.LOCK_EX)
    (folder / "new").rename(folder / LOCK)  # under its name it is never seen without its lock
    return folder


def _remove_if_left(lock: Path) -> None:
    """Remove the folder of a lock of ours that nobody holds: the kernel lets go of a lock when its process ends."""
    try:
        if lock.stat().st_uid != os.getuid():
            return
        with open(lock) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    except OSError:
        return
