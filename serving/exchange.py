"""One request and its answer as the gate sees them: what is passed on, what is held back, when it is over."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.api import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RETRY_S, RETRY_ELSEWHERE_S = 1, 5
"""Retry-After where a moment may help, and where the service starts or stops."""
LOG_HEADER = b"x-pagewise-log"
"""How a replica tells the gate what belongs into the request log, as JSON."""
LEFT = 499
"""Status in the request log of a caller who left before the answer."""

_KEPT_BACK = (
    *(b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve_multiplexed_model_id"),  # steer Serve
    *(b"authorization", b"x-api-key"),  # no replica needs a key
    b"x-request-id",
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RefusalError(ApiError):
    """A request that gets an error instead of a page.

    Attributes:
        retry_s: When to ask again, None where that does not help.
    """

    def __init__(self, status: int, error: str, detail: str, retry_s: int | None = None) -> None:
        super().__init__(status, error, detail)
        self.retry_s = retry_s


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        headers = dict(scope["headers"])
        self.path: str = scope["path"]
        self.address: str = (scope.get("client") or ("unknown", 0))[0]
        self.length = _whole_number(headers.get(b"content-length", b"0"))
        bearer = headers.get(b"authorization", b"")
        key = bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        self.key = key.decode("latin-1").strip()
        came = headers.get(b"x-request-id", b"")
        self._request_id = came if _REQUEST_ID.fullmatch(came) else uuid.uuid4().hex.encode()
        kept = [pair for pair in scope["headers"] if pair[0] not in _KEPT_BACK]
        self._scope = {**scope, "headers": [*kept, (b"x-request-id", self._request_id)]}
        self._receive, self._send, self._max_body = receive, send, max_body
        self._began = time.perf_counter()
        self._asked_s = self._answered_s = math.nan
        self._body: Message | None = None
        self._left = False
        self._over: asyncio.Future[RefusalError] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._noted: dict[str, object] = {}

    async def take_body(self, limit_s: float) -> bool:
        """Wait for all of the body, so that nobody holds a place among those who are answered while it drips in.

        Args:
            limit_s: Seconds until the caller is given up.

        Returns:
            Whether the caller is still there.

        Raises:
            RefusalError: It took too long, or is too large.
        """
        pieces, received = [], 0
        try:
            async with asyncio.timeout(limit_s):
                while (message := await self._receive())["type"] == "http.request":
                    pieces.append(message.get("body", b""))
                    received += len(pieces[-1])
                    if received > self._max_body:
                        raise too_large(received, self._max_body)
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            detail = f"expected all of the body within {limit_s:g} s, got {received} bytes; send it faster, or less"
            raise RefusalError(408, "too_slow", detail) from error
        if message["type"] == "http.disconnect":
            self._status = LEFT
            return False
        self._body = {"type": "http.request", "body": b"".join(pieces), "more_body": False}
        self._asked_s = time.perf_counter()
        return True

    async def forward(self, app: App, deadline_s: float) -> None:
        """Let the application answer; whatever it does, there is an answer soon after the deadline.

        Raises:
            RefusalError: It did not, or Serve answered in its place.
        """
        inside = asyncio.ensure_future(app(self._scope, self._receive_some, self._send_on))
        inside.add_done_callback(_forget)
        waiting: set[asyncio.Future[Any]] = {inside, self._over}
        await asyncio.wait(waiting, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if inside.done():
            self._end(_unavailable("the part of the service that was answering is gone"))
        else:
            self._end(_unavailable(f"no answer within {deadline_s:g} s"))
        if self._left and not self._status:
            self._status = LEFT
        if self._over.done() and not self._status:
            raise self._over.result()

    async def refuse(self, refusal: RefusalError) -> None:
        """Send a refusal."""
        body = json.dumps({"error": refusal.error, "detail": refusal.detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refusal.retry_s is not None:
            headers.append((b"retry-after", str(refusal.retry_s).encode()))
        if refusal.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        self._noted["refused"] = refusal.error
        await self._start(refusal.status, headers)
        await self._send({"type": "http.response.body", "body": body})

    def seconds(self) -> float:
        """Return how long it has taken so far."""
        return time.perf_counter() - self._began

    @property
    def good(self) -> bool:
        """Whether what was asked for has been answered."""
        return self._status == 200

    def waited_s(self) -> float:
        """Return the seconds from the end of the request, however slowly it came, to its answer, or until now."""
        if math.isnan(self._asked_s):
            return 0.0
        return (self._answered_s if self.good else time.perf_counter()) - self._asked_s

    def entry(self) -> dict[str, object]:
        """Return the line of the request log; a path may hold ids, so only its beginning stands in for a route."""
        return {
            "request_id": self._request_id.decode(),
            "method": self._scope["method"],
            "route": "/".join(self.path.split("/")[:3]),
            "status": self._status,
            "ms": round(1000 * self.seconds(), 2),
            **self._noted,
        }

    async def _receive_some(self) -> Message:
        """Pass the body on; after the end of the exchange the application is told that everybody left."""
        if self._over.done():
            return {"type": "http.disconnect"}
        if self._body is not None:
            body, self._body = self._body, None
            return body
        coming = asyncio.ensure_future(self._receive())
        waiting: set[asyncio.Future[Any]] = {coming, self._over}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not coming.done():
                coming.cancel()
        if self._over.done():
            return {"type": "http.disconnect"}
        message = coming.result()
        self._left = message["type"] == "http.disconnect"
        return message

    async def _send_on(self, message: Message) -> None:
        """Pass a part of the answer on; an answer of Serve itself ends the exchange instead."""
        if self._over.done():
            return
        if message["type"] != "http.response.start":
            await self._send(message)
            return
        headers = dict(message["headers"])
        if message["status"] >= 400 and headers.get(b"content-type", b"").startswith(b"text/plain"):
            self._end(_of_serve(message["status"]))
            return
        if LOG_HEADER in headers:
            self._noted.update(json.loads(headers[LOG_HEADER]))
        await self._start(message["status"], message["headers"])

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status, self._answered_s = status, time.perf_counter()
        kept = [pair for pair in headers if pair[0] not in (LOG_HEADER, b"x-request-id", b"server")]
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*kept, (b"x-request-id", self._request_id), (b"x-content-type-options", b"nosniff")],
            }
        )

    def _end(self, refusal: RefusalError) -> None:
        if not self._over.done():
            self._over.set_result(refusal)


def _unavailable(why: str) -> RefusalError:
    return RefusalError(503, "unavailable", f"{why}; ask again", RETRY_S)


def _of_serve(status: int) -> RefusalError:
    """Return what stands for Serve's own errors: without an application there is no path it knows."""
    if status == 404:
        return RefusalError(503, "starting", "the service starts, or stops; ask again", RETRY_ELSEWHERE_S)
    return _unavailable(f"no part of the service could answer (status {status})")


def too_large(came: int, most: int) -> RefusalError:
    """Return what a body of too many bytes gets."""
    detail = f"expected a body of at most {most} bytes, got {came} or more; send less at once"
    return RefusalError(413, "too_large", detail)


def _whole_number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0


def _forget(task: asyncio.Future[None]) -> None:
    """Look at how a task ended, so that asyncio does not report that nobody did."""
    if not task.cancelled():
        task.exception()
