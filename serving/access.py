"""Who may ask, and how often: API keys that are stored as hashes only, and a token bucket per key or address.

`python -m serving.access NAME` makes a key: the line for the file of keys, and the key itself, which is shown once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import re
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

ENVIRONMENT = "PAGEWISE_API_KEYS"
OPERATOR = "operator"
"""Name of the key that may drain the service."""
LOOK_AGAIN_S = 1.0
"""Seconds between looks whether the file of keys has changed: a key that is struck out is refused from then on."""
BUCKETS = 10_000
"""Keys and addresses whose requests are counted; the one longest unheard of makes room for another."""

_LINE = re.compile(r"(?P<name>[\w.-]+):(?P<digest>[0-9a-f]{64})(:(?P<rate>\d+(\.\d+)?))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """Somebody with a key.

    Attributes:
        name: Appears in the request log.
        digest: SHA-256 of the key, hexadecimal.
        rate_per_s: Requests per second, None for the service's own limit.
    """

    name: str
    digest: str
    rate_per_s: float | None


def read_keys(text: str, where: str) -> tuple[Holder, ...]:
    """Read lines `name:sha256[:requests per second]`; empty lines and lines that start with # say nothing.

    Raises:
        ValueError: A line is something else; its number is told, not its content, which may be a key.

    Example:
        >>> read_keys(f"shop:{'0' * 64}:50", "keys")[0].rate_per_s
        50.0
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{where}, line {number}: expected name:sha256 of the key[:requests per second]; "
                "`python -m serving.access NAME` makes such a line"
            )
        rate = match["rate"]
        found.append(Holder(name=match["name"], digest=match["digest"], rate_per_s=float(rate) if rate else None))
    return tuple(found)


class Keys:
    """The keys of a file, which is read again when it changes, and of the environment.

    Args:
        file: The file; None for none.
        environment: Lines as in the file, also separated by commas.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no key.
    """

    def __init__(self, file: Path | None, environment: str | None = None) -> None:
        self._file = file
        self._fixed = read_keys((environment or "").replace(",", "\n"), f"the variable {ENVIRONMENT}")
        if file is not None and not file.is_file():
            raise FileNotFoundError(
                f"serve.keys_file: there is no file {file}; write into it the line that "
                "`python -m serving.access NAME` prints, or leave serve.keys_file out to ask for no keys"
            )
        self._asked, self._stamp = time.monotonic(), self._stamp_of(file)
        self._holders = self._read()

    @classmethod
    def of(cls, file: str | None) -> Keys:
        """Return the keys of a file and of this process's environment."""
        return cls(None if file is None else Path(file), os.environ.get(ENVIRONMENT))

    def __bool__(self) -> bool:
        return self._file is not None or bool(self._fixed)

    def holder(self, key: str) -> Holder | None:
        """Return whose key this is, in a time that says nothing about how near a wrong key came."""
        self._look_again()
        digest, found = hashlib.sha256(key.encode()).hexdigest(), None
        for holder in self._holders:
            if hmac.compare_digest(holder.digest, digest):
                found = holder
        return found

    def _look_again(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._asked < LOOK_AGAIN_S:
            return
        self._asked = now
        try:
            if (stamp := self._stamp_of(self._file)) != self._stamp:
                self._holders, self._stamp = self._read(), stamp
        except (OSError, ValueError):
            return  # a file that is being written is read when it is whole; until then the keys stay

    def _read(self) -> tuple[Holder, ...]:
        return self._fixed if self._file is None else self._fixed + read_keys(self._file.read_text(), str(self._file))

    @staticmethod
    def _stamp_of(file: Path | None) -> tuple[int, int]:
        if file is None:
            return (0, 0)
        found = file.stat()
        return (found.st_mtime_ns, found.st_size)


class RateLimits:
    """One token bucket per key or address: a second's worth of requests at once, then so many per second.

    Example:
        >>> limits = RateLimits(clock=lambda: 0.0)
        >>> [limits.wait_s("ann", 2.0) for _ in range(3)]
        [0.0, 0.0, 0.5]
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, who: str, rate_per_s: float) -> float:
        """Return 0 and count a request, or the seconds until one is allowed."""
        most, now = max(1.0, rate_per_s), self._clock()
        tokens, since = self._buckets.pop(who, (most, now))
        tokens = min(most, tokens + (now - since) * rate_per_s)
        allowed = tokens >= 1
        self._buckets[who] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / rate_per_s


def new_key(name: str) -> tuple[str, str]:
    """Return a new key of 256 random bits and its line for the file of keys."""
    key = secrets.token_urlsafe(32)
    return key, f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one argument, the name of the key's holder")
    made, line = new_key(sys.argv[1])
    sys.stdout.write(f"{line}\nthe key, shown this once: {made}\n")
