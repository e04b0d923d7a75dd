"""The gate before the replicas: who may ask, how much at once, how long it may take; every refusal is JSON.

It is an ASGI layer around Ray Serve's own HTTP server: in the proxy, so that a refusal costs no replica anything and
holds for all of them together, or, behind HAProxy, in each replica. What Serve itself would answer as plain text (no
replica yet, none left, one died, too many requests, too slow) becomes 503 with Retry-After, so that a caller can rely
on one form of error. Serve calls `middlewares`; `serving.run` puts what it needs to know into the environment.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

from starlette.middleware import Middleware

from serving.access import OPERATOR, Holder, Keys, RateLimits
from serving.admission import Admission
from serving.config import ServeConfig
from serving.exchange import RETRY_ELSEWHERE_S, RETRY_S, App, Exchange, Receive, RefusalError, Scope, Send, too_large
from serving.health import Drain
from serving.logs import RequestLog
from serving.metrics import GateMetrics
from serving.web_files import FILES

ENVIRONMENT = "PAGEWISE_GATE"
"""Environment variable with the gate's settings, as JSON."""
SLACK_S = 1.0
"""A replica answers from the popular list at the deadline; so long after it the gate stops waiting for the replica."""
OPEN = ("/health", "/ready")
"""Asked by whoever watches the service, without a key."""
HEALTHZ = "/-/healthz"
"""How HAProxy asks Serve whether a replica takes requests."""
KEYLESS = (*OPEN, *FILES)
"""Beside them the web page's files, which ask for the key that they then use."""
PROBES = (*OPEN, "/metrics", "/version", "/drain")
"""Answered when the service is full or drains."""

PAGES = "/v1/recommend"

_LOOPBACK = ("127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What a gate needs to know; travels as JSON.

    Attributes:
        serve: Options of the service.
        folder: The service's own folder.
        per_replica: Whether it stands in each replica behind HAProxy, where everybody's address is HAProxy's.
    """

    serve: ServeConfig
    folder: Path
    per_replica: bool = False

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps({**dataclasses.asdict(self), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> GateSettings:
        """Read what `to_json` returned."""
        found = json.loads(text)
        return cls(serve=ServeConfig(**found["serve"]), folder=Path(found["folder"]), per_replica=found["per_replica"])


def middlewares() -> list[Middleware]:
    """Return the gate for Ray Serve's HTTP servers (the form its callback must have)."""
    return [Middleware(Gate, settings=GateSettings.from_json(os.environ[ENVIRONMENT]))]


class Gate:
    """See the module.

    Args:
        app: What answers the requests let through.
        settings: What to refuse.
    """

    def __init__(self, app: App, settings: GateSettings) -> None:
        self._app, self._config, self._per_replica = app, settings.serve, settings.per_replica
        self._drain, self._keys, self._limits = Drain(settings.folder), Keys.of(settings.serve.keys_file), RateLimits()
        self._log = RequestLog(Path(settings.serve.log_file)) if settings.serve.log_file else None
        self.metrics = GateMetrics()
        self._in_flight = 0
        gated = 1 if settings.per_replica else settings.serve.replicas
        self._pages = Admission(
            target_s=settings.serve.longest_wait * settings.serve.request_timeout_s,
            first=settings.serve.max_batch * gated,
            most=settings.serve.max_in_flight,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._per_replica and scope["path"] == HEALTHZ:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._config.max_body_bytes)
        holder: Holder | None = None
        try:
            holder = self._holder(exchange)
            self._admit(exchange, holder)
            if exchange.path not in PROBES:
                if not await exchange.take_body(self._config.request_timeout_s):
                    return
                self._require_room()  # others may have come meanwhile
            if exchange.path == PAGES:
                await self._let_page_in(exchange)
            else:
                await self._let_in(exchange)
        except RefusalError as refusal:
            self.metrics.refused.labels(refusal.error).inc()
            await exchange.refuse(refusal)
        finally:
            self._note(exchange, holder)

    def _holder(self, exchange: Exchange) -> Holder | None:
        """Return whose key came, None where none is needed."""
        if not self._keys or exchange.path in KEYLESS:
            return None
        holder = self._keys.holder(exchange.key) if exchange.key else None
        if holder is None:
            came = "a key that is not known" if exchange.key else "none"
            raise RefusalError(
                401, "unauthorized", f"expected an API key (Authorization: Bearer KEY or X-API-Key: KEY), got {came}"
            )
        return holder

    def _admit(self, exchange: Exchange, holder: Holder | None) -> None:
        """Refuse what must not reach a replica."""
        if exchange.path.startswith("/-/"):
            raise RefusalError(404, "not_found", "there is nothing here; the API is described at /docs")
        if exchange.path == "/drain" and not self._may_drain(exchange, holder):
            raise RefusalError(
                403, "forbidden", f"only the key named {OPERATOR!r}, or, without keys, this machine may drain"
            )
        if self._drain and (exchange.path not in PROBES or exchange.path == "/ready"):
            raise RefusalError(503, "draining", "the service is about to stop; ask another one", RETRY_ELSEWHERE_S)
        if exchange.path in PROBES:
            return
        if exchange.length > self._config.max_body_bytes:
            raise too_large(exchange.length, self._config.max_body_bytes)
        self._keep_rate(exchange, holder)
        self._require_room()

    def _require_room(self) -> None:
        if self._in_flight >= self._config.max_in_flight:
            raise RefusalError(
                503, "overloaded", f"{self._in_flight} requests are being answered, no more are taken", RETRY_S
            )

    def _may_drain(self, exchange: Exchange, holder: Holder | None) -> bool:
        if self._keys:
            return holder is not None and holder.name == OPERATOR
        return exchange.address in _LOOPBACK and not self._per_replica

    def _keep_rate(self, exchange: Exchange, holder: Holder | None) -> None:
        rate = self._config.rate_per_s
        if holder is not None and holder.rate_per_s is not None:
            rate = holder.rate_per_s
        if not rate or (holder is None and self._per_replica):
            return
        wait_s = self._limits.wait_s(f"key {holder.name}" if holder else exchange.address, rate)
        if wait_s > 0:
            raise RefusalError(429, "rate_limited", f"expected at most {rate:g} requests per second", math.ceil(wait_s))

    async def _let_page_in(self, exchange: Exchange) -> None:
        if not self._pages.enter():
            raise RefusalError(
                *(503, "overloaded"),
                f"{self._pages.inside} pages are being made, more would take too long; ask again",
                RETRY_S,
            )
        try:
            await self._let_in(exchange)
        finally:
            self._pages.leave(exchange.waited_s(), good=exchange.good)
            self.metrics.page_limit.set(self._pages.limit)

    async def _let_in(self, exchange: Exchange) -> None:
        counted = exchange.path not in PROBES
        if counted:
            self._count(1)
        try:
            await exchange.forward(self._app, self._config.request_timeout_s + SLACK_S)
        finally:
            if counted:
                self._count(-1)
                self.metrics.seconds.observe(exchange.seconds())

    def _count(self, change: int) -> None:
        self._in_flight += change
        self.metrics.in_flight.set(self._in_flight)

    def _note(self, exchange: Exchange, holder: Holder | None) -> None:
        if self._log is None:
            return
        entry = {**exchange.entry(), "key": None if holder is None else holder.name}
        if not self._log.write(entry):
            self.metrics.log_failures.inc()
