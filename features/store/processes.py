"""Whether a process that left its name somewhere still lives."""

from __future__ import annotations

import psutil

_CLOCK_SLACK_S = 2.0
"""Two processes may derive one process's start time from boot times that differ by clock corrections."""


def is_alive(pid: int, started: float) -> bool:
    """Return whether this very process lives on this machine: ids are used again, and a zombie holds nothing.

    Args:
        pid: Its id.
        started: When it was created, seconds since 1970.

    Example:
        >>> me = psutil.Process()
        >>> is_alive(me.pid, me.create_time()), is_alive(me.pid, me.create_time() - 60)
        (True, False)
    """
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _CLOCK_SLACK_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
