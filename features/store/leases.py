"""The right to be the only writer: a key with a time to live, renewed by a thread until it is given back."""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
import time
import uuid
from typing import Self

import psutil

from features.store.base import LeaseHeldError, LeaseLostError
from features.store.connections import ERRORS, Client
from features.store.processes import is_alive

RENEWALS = 3
"""Per lifetime: two may fail before the lease is lost."""
WAIT_STEP_S = 0.1

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, as Redis's clock does where there is one; the monotonic clock stands still."""

_RENEW = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
_RELEASE = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


class RedisLease:
    """A `WriterLease` (see `features.store.base`) in a key of its own; its value names the holder.

    Args:
        client: Where the key lives.
        key: The key.
        seconds: Its time to live.
        wait_s: How long to wait for another holder.

    Raises:
        LeaseHeldError: Another process holds the lease.
        ERRORS: The server does not answer.
    """

    def __init__(self, client: Client, key: str, seconds: float, wait_s: float = 0.0) -> None:
        self._client, self._key = client, key
        self._seconds, self._milliseconds = seconds, max(1, round(1000 * seconds))
        me = psutil.Process()
        self._token = f"{socket.gethostname()}:{me.pid}:{me.create_time():.3f}:{uuid.uuid4().hex[:12]}"
        self._renew, self._give_back = client.register_script(_RENEW), client.register_script(_RELEASE)
        self._over = threading.Event()
        self._take(wait_s)
        self._thread = threading.Thread(target=self._renew_until_over, name=f"lease {key}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See `WriterLease`."""
        if _now_s() >= self._held_until:
            raise LeaseLostError(
                f"the lease {self._key} ran out before it was renewed: Redis did not answer for {self._seconds:g} s, "
                "or another process took it; start again"
            )

    def release(self) -> None:
        """See `WriterLease`."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self._held_until = 0.0
        try:
            self._give_back(keys=[self._key], args=[self._token])
        except ERRORS:  # it runs out by itself
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _take(self, wait_s: float) -> None:
        deadline = _now_s() + wait_s
        while True:
            asked = _now_s()
            if self._client.set(self._key, self._token, nx=True, px=self._milliseconds):
                self._held_until = asked + self._seconds
                return
            if asked >= deadline:
                break
            time.sleep(WAIT_STEP_S)
        holder, lives_here = _holder(self._client.get(self._key))
        raise LeaseHeldError(
            f"{self._key} is held by {holder}, and one process writes at a time; stop it, or wait "
            f"{self._seconds:g} s after it was killed",
            lives_here=lives_here,
        )

    def _renew_until_over(self) -> None:
        while not self._over.wait(self._seconds / RENEWALS):
            asked = _now_s()
            try:
                renewed = self._renew(keys=[self._key], args=[self._token, self._milliseconds])
            except ERRORS:  # tried again; `check` tells when it has been too long
                continue
            if not renewed:
                self._held_until = 0.0
                return
            self._held_until = asked + self._seconds


def _holder(token: bytes | None) -> tuple[str, bool]:
    """Return who holds a lease, for a message, and whether that is another living process of this machine.

    A token of this very process is of a lease that it has lost: that runs out like a dead one's.
    """
    fields = (token or b"").decode().split(":")
    if len(fields) != 4:
        return "another process", False
    host, pid, started, _ = fields
    since = dt.datetime.fromtimestamp(float(started), dt.UTC)
    name = f"{host}:{pid} (host:process, started {since:%Y-%m-%d %H:%M:%S} UTC)"
    here = host == socket.gethostname() and int(pid) != os.getpid()
    return name, here and is_alive(int(pid), float(started))


def _now_s() -> float:
    return time.clock_gettime(_CLOCK)
