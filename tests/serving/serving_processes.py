"""Which processes these tests have started: they leave none behind, and kill none of the tests beside them."""

from __future__ import annotations

import os

import psutil

OWNER = "PAGEWISE_TESTS_OF"
"""In the environment of everything that this process starts, also of what outlives its parents."""
os.environ[OWNER] = str(os.getpid())


def processes(*words: str) -> set[int]:
    """Ids of our processes whose command line or working folder has one of the words, zombies left out."""
    found = set()
    for process in psutil.process_iter():
        try:
            known_by = " ".join([*process.cmdline(), process.cwd()])
            if process.status() == psutil.STATUS_ZOMBIE or not any(word in known_by for word in words):
                continue
            if process.environ().get(OWNER) == str(os.getpid()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


RAY = ("raylet", "ray::", "gcs_server")
