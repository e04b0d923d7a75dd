"""HTTP: routes, and errors as JSON `{error, detail}` with the right status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from serving.api import (
    ApiError,
    ErrorResponse,
    Id,
    RecommendRequest,
    RecommendResponse,
    SimilarResponse,
    VersionResponse,
    describe,
    error_responses,
)
from serving.backend import Backend
from serving.events import add_events
from serving.exchange import LOG_HEADER, App, Message, Receive, Scope, Send
from serving.health import Drain
from serving.id_paths import utf8_only
from serving.metrics import ServiceMetrics
from serving.users import add_users
from serving.web_routes import add_web

MAX_SIMILAR = 100
NOTED = "pagewise.noted"
"""Key of a request's scope: what the request log says of its answer."""
LOGGED = {"release", "arm", "fallback"}
"""Parts of a page's answer that go there beside its id."""

_NAMES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 422: "invalid_request"}


def build_api(backend: Backend, drain: Drain | None = None) -> FastAPI:
    """Return the HTTP application around a backend; it runs under Ray Serve and under any ASGI server.

    Args:
        backend: Makes the answers.
        drain: What `POST /drain` begins; None leaves it out, where no gate would heed it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(backend.refresh_forever())
        yield
        refreshing.cancel()
        backend.close()

    api = FastAPI(title="Pagewise", description="Pages of recommendations.", lifespan=lifespan)
    _add_errors(api)
    api.add_middleware(_Measured, metrics=backend.service.metrics)
    _add_pages(api, backend)
    add_events(api, backend)
    add_users(api, backend)
    add_web(api, backend)
    _add_operations(api, backend)
    if drain is not None:
        _add_drain(api, drain)
    return api


def _add_pages(api: FastAPI, backend: Backend) -> None:
    @api.post("/v1/recommend", responses=error_responses(400, 410, 422, 503))
    async def recommend(
        http: Request,
        request: RecommendRequest,
        explain: Annotated[bool, Query(description="Add each retriever's share of every score.")] = False,
    ) -> RecommendResponse:
        """Make a page for a user."""
        answer = await backend.recommend(request)
        http.scope[NOTED] = {"page": answer.request_id, **answer.model_dump(include=LOGGED)}
        if not explain:
            for item in answer.items:
                item.parts = None
        return answer

    @api.get("/v1/items/{item_id:id}/similar", responses=error_responses(404, 422), dependencies=[Depends(utf8_only)])
    async def similar(
        item_id: Id,
        k: Annotated[int, Query(ge=1, le=MAX_SIMILAR, description="Number of items.")] = 10,
    ) -> SimilarResponse:
        """Return items that users turn to around this one."""
        return await backend.similar(item_id, k)


def _add_operations(api: FastAPI, backend: Backend) -> None:
    @api.get("/health")
    async def health() -> dict[str, str]:
        """Answer as long as the process is alive."""
        return {"status": "ok"}

    @api.get("/ready", responses=error_responses(503))
    async def ready() -> dict[str, str]:
        """Answer 200 when requests can be served as intended: release loaded, store answering."""
        await backend.check_ready()
        return {"status": "ready", "release": backend.service.release.manifest.release_id}

    @api.get("/version")
    async def version() -> VersionResponse:
        """Say what is running and how fresh the online store is."""
        return await backend.version()

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the service's metrics in Prometheus's text format."""
        return Response(backend.service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_drain(api: FastAPI, drain: Drain) -> None:
    @api.post("/drain", status_code=202, responses=error_responses(403))
    async def begin_to_drain() -> dict[str, str]:
        """Take nothing new from now on: /ready turns 503, requests in flight end, new ones get 503 and Retry-After."""
        drain.begin()
        return {"status": "draining"}


class _Measured:
    """Counts and times answers, and tells the gate what its log says of them."""

    def __init__(self, app: App, metrics: ServiceMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                noted = {"route": _route(scope), **scope.get(NOTED, {})}
                message["headers"] = [*message["headers"], (LOG_HEADER, json.dumps(noted).encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            self._metrics.requests.labels(_route(scope), str(status)).inc()
            self._metrics.request_seconds.labels(_route(scope)).observe(time.perf_counter() - began)


def _route(scope: Scope) -> str:
    """Return the route's pattern, not the path: an item id per label would never end."""
    return getattr(scope.get("route"), "path", "unmatched")


def _add_errors(api: FastAPI) -> None:
    @api.exception_handler(ApiError)
    async def known(_: Request, error: ApiError) -> JSONResponse:
        return _error(error.status, error.error, error.detail, error.headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = error.errors()
        if mistakes[0]["type"] == "json_invalid":
            place = int(mistakes[0]["loc"][1]) + 1
            return _bad_json(request, f"{mistakes[0]['ctx']['error']} at character {place}")
        return _error(422, "invalid_request", describe(mistakes))

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400 and isinstance(error.__cause__, ValueError | RecursionError):
            return _bad_json(request, _unreadable(error.__cause__))
        return _error(error.status_code, _NAMES.get(error.status_code, "http_error"), str(error.detail), error.headers)

    @api.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return _error(500, "internal", f"{type(error).__name__}: the service failed, not the request; see its log")


def _unreadable(error: ValueError | RecursionError) -> str:
    """Say why a body is none that the parser takes, where it says so by other errors than its own."""
    if isinstance(error, RecursionError):
        return f"expected objects and lists nested at most some {sys.getrecursionlimit()} deep, got more"
    if isinstance(error, UnicodeDecodeError):
        return f"expected UTF-8, got byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
    return f"expected numbers of at most {sys.get_int_max_str_digits()} digits, got a longer one"


def _bad_json(request: Request, why: str) -> JSONResponse:
    """Answer a body that cannot be parsed: a packed one never can."""
    if packed := request.headers.get("content-encoding"):
        detail = f"expected a body as it is, got one with the header Content-Encoding: {packed[:20]}; send it unpacked"
        return _error(415, "packed_body", detail)
    return _error(400, "bad_json", f"the body is no JSON: {why}")


def _error(status: int, error: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(ErrorResponse(error=error, detail=detail).model_dump(), status, headers)
