"""Which processes run: tests leave none behind."""

from __future__ import annotations

import psutil


def processes(*words: str) -> set[int]:
    """Ids of the processes whose command line or working folder has one of the words, zombies left out."""
    found = set()
    for process in psutil.process_iter():
        try:
            known_by = " ".join([*process.cmdline(), process.cwd()])
            if process.status() != psutil.STATUS_ZOMBIE and any(word in known_by for word in words):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


RAY = ("raylet", "ray::", "gcs_server")
