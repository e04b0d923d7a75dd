"""Runs of the pipeline that end by SIGKILL: before a chosen step, or at a chosen time.

A step is anything that leaves the process: a command sent to Redis, a file put in place or removed. This module is a
program, too: it imports what is slow once, then forks a child for every line it reads, so that many crashes are cheap.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KILLED, ENDED = "killed", "ended"
BYSTANDERS = ("lease", "catalogue growth")
"""Threads whose steps are not counted: they come when they come."""


class Crasher:
    """Starts runs and tells how they ended."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, folder: Path, url: str, namespace: str, **when: Any) -> dict[str, Any]:
        """Run the pipeline in a process of its own.

        Args:
            folder: The workspace.
            url: Of Redis.
            namespace: Of the store and the stream.
            when: `step=7`: kill it before its eighth step; `seconds=0.5`: after so long; neither: let it end. And the
                number of `shards`.

        Returns:
            `how` it ended, the number of `steps` where it ended by itself, the `seconds` it took.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({"folder": str(folder), "url": url, "namespace": namespace, **when}) + "\n"
        )
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@contextmanager
def crasher() -> Iterator[Crasher]:
    """Return a crasher for the length of a block."""
    opened = Crasher()
    try:
        yield opened
    finally:
        opened.close()


def serve() -> None:
    """Fork a child for every line of standard input."""
    gc.collect()
    gc.freeze()  # else each child looks through all modules, and copies their pages
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        began = time.monotonic()
        child = os.fork()
        if not child:
            os.close(reading)
            run_in_child(request, writing)
        os.close(writing)
        if "seconds" in request:
            time.sleep(request["seconds"])
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
        answer = {"how": ENDED if told else KILLED, "steps": int(told or 0), "seconds": time.monotonic() - began}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def run_in_child(request: dict[str, Any], writing: int) -> None:
    """Run the pipeline, tell the number of steps, and leave without a trace of the parent."""
    os.dup2(2, 1)
    steps = count_steps(request.get("step"))
    try:
        stream_world.take_up(Path(request["folder"]), request["url"], request["namespace"], shards=request["shards"])
        os.write(writing, str(steps()).encode())
    finally:
        os._exit(0)


def count_steps(last: int | None) -> Callable[[], int]:
    """Count steps from now on, and kill this process before number `last`."""
    count = 0
    lock = threading.Lock()

    def stepping(work: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            if not threading.current_thread().name.startswith(BYSTANDERS):
                with lock:
                    if count == last:
                        os.kill(os.getpid(), signal.SIGKILL)
                    count += 1
            return work(*arguments, **named)

        return step

    connection = redis.connection.AbstractConnection
    connection.send_packed_command = stepping(connection.send_packed_command)
    for name in ("replace", "unlink", "remove", "rename"):
        setattr(os, name, stepping(getattr(os, name)))
    return lambda: count


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import redis.connection
    import stream_world

    serve()
