"""An open-loop load generator: requests start when they are due, whether or not earlier ones have been answered.

A closed loop (so many callers, each waiting for its answer) slows down with the service that it measures and leaves out
just the requests that would have waited: coordinated omission. Here each request has a due time, `k / rate`, and its
latency counts from there, so that a service that stops for a second shows a second of late answers.

Needs nothing but Python: `python tests/load/open_loop.py URL --rates 50,100,200 --seconds 20`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

QUANTILES = (0.5, 0.95, 0.99, 0.999)
CONNECTIONS = 2000
"""Open at most; a request that finds none free fails as `no connection`."""
GIVE_UP_S = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One request: due, answered, how.

    Attributes:
        due_s: When it should have been sent, seconds after the start.
        late_s: How long after that it was sent: large values mean that the generator was too slow, not the service.
        latency_s: From due to the end of the answer.
        status: HTTP status, 0 without an answer.
        fallback: What stood in for the first choice, None where nothing did.
        error: Name of an error, None for a page.
    """

    due_s: float
    late_s: float
    latency_s: float
    status: int
    fallback: str | None
    error: str | None = None

    @property
    def kind(self) -> str:
        """Status and, where there is one, error."""
        return f"{self.status} {self.error}" if self.error else str(self.status)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What one rate gave."""

    rate: float
    seconds: float
    answers: tuple[Answer, ...]

    def quantiles_ms(self, statuses: Sequence[int] = (200,)) -> list[float]:
        """Return p50, p95, p99, p99.9 of the answers with one of these statuses, in milliseconds."""
        times = sorted(answer.latency_s for answer in self.answers if answer.status in statuses)
        return [1000 * quantile(times, share) for share in QUANTILES]

    @property
    def statuses(self) -> Counter[int]:
        """Answers by status."""
        return Counter(answer.status for answer in self.answers)

    def line(self) -> str:
        """Return one row of the table."""
        good = [answer for answer in self.answers if answer.status == 200]
        fallbacks = Counter(answer.fallback for answer in good if answer.fallback)
        late = 1000 * quantile(sorted(answer.late_s for answer in self.answers), 0.99)
        times = " ".join(f"{value:8.1f}" for value in self.quantiles_ms())
        refused = self.quantiles_ms([503])[2]
        kinds = Counter(answer.kind for answer in self.answers if answer.status != 200)
        others = ", ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items()))
        return (
            f"{self.rate:7.0f} {len(good) / self.seconds:8.1f} {times} {refused:9.1f} {late:7.1f}  "
            f"{others or '-'}; {dict(fallbacks) or '-'}"
        )


HEADER = "rate/s   200s/s   p50 ms   p95 ms   p99 ms p99.9 ms 503p99 ms late99  other statuses; fallbacks"


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed.

    Example:
        >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
        2.0
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Pool:
    """Keep-alive connections to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname or "127.0.0.1", parts.port or 80, parts.path
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = 0

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Send one request and return status and body of its answer."""
        if not self._free:
            if self._open >= CONNECTIONS:
                raise ConnectionError("no connection is free")
            self._open += 1
            try:
                self._free.append(await asyncio.open_connection(self.host, self.port))
            except BaseException:
                self._open -= 1
                raise
        reader, writer = self._free.pop()
        try:
            head = f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            answer = await _read(reader)
        except BaseException:
            self._open -= 1
            writer.close()
            raise
        self._free.append((reader, writer))
        return answer

    def close(self) -> None:
        """Close what is open."""
        for _, writer in self._free:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    lengths = [line.split(":")[1] for line in head if line.lower().startswith("content-length:")]
    return int(head[0].split(" ")[1]), await reader.readexactly(int(lengths[0]))


async def offer(url: str, body: Callable[[int], bytes], rate: float, seconds: float) -> Report:
    """Send requests at a constant rate for so many seconds and wait for the last answer.

    Args:
        url: Of the route.
        body: Returns the body of the k-th request.
        rate: Requests per second.
        seconds: For how long.
    """
    pool, began = Pool(url), time.perf_counter()
    tasks = []
    for number in range(round(rate * seconds)):
        due = number / rate
        if (wait := began + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(_one(pool, body(number), began, due)))
        if number % 32 == 0:
            await asyncio.sleep(0)  # a generator that is behind must still read answers
    answers = await asyncio.gather(*tasks)
    pool.close()
    return Report(rate=rate, seconds=seconds, answers=tuple(answers))


async def _one(pool: Pool, body: bytes, began: float, due: float) -> Answer:
    late = time.perf_counter() - began - due
    status, answer = 0, dict[str, Any]()
    try:
        status, content = await asyncio.wait_for(pool.post(body), GIVE_UP_S)
        answer = json.loads(content)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        status = 0
    latency = time.perf_counter() - began - due
    return Answer(
        due_s=due,
        late_s=late,
        latency_s=latency,
        status=status,
        fallback=answer.get("fallback"),
        error=answer.get("error"),
    )


def user_body(users: Sequence[str]) -> Callable[[int], bytes]:
    """Return bodies that ask for pages of these users, one after the other."""
    bodies = [json.dumps({"user_id": user}).encode() for user in users]
    return lambda number: bodies[number % len(bodies)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per rate."""
    parser = argparse.ArgumentParser(description="Offer requests at constant rates.")
    parser.add_argument("url", help="of the service, such as http://127.0.0.1:8000")
    parser.add_argument("--rates", default="20,50,100,200,400", help="requests per second, separated by commas")
    parser.add_argument("--seconds", type=float, default=20.0, help="per rate")
    parser.add_argument(
        "--users", default="u{}", help="their ids, with a number below --user-count for {} (%(default)s)"
    )
    parser.add_argument("--user-count", type=int, default=1000)
    args = parser.parse_args(arguments)
    body = user_body([args.users.format(number) for number in range(args.user_count)])
    sys.stdout.write(HEADER + "\n")
    for rate in map(float, args.rates.split(",")):
        report = asyncio.run(offer(f"{args.url}/v1/recommend", body, rate, args.seconds))
        sys.stdout.write(report.line() + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
