"""The web page at `/`, and what it asks for beside the rest of the interface.

The page is a few files as they stand, no build step: each is read once, and a browser that has it asks only whether it
still holds (ETag). It loads nothing from elsewhere, and its Content-Security-Policy lets it do nothing else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel

from serving.api import NonEmpty, error_responses
from serving.item_details import ItemDetails

if TYPE_CHECKING:
    from serving.backend import Backend

FOLDER = Path(__file__).parent / "web"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/web/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/web/style.css": ("style.css", "text/css; charset=utf-8"),
    "/web/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file of `serving/web/` and its type."""
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MOST_ITEMS, MOST_USERS = 200, 100


class ItemsResponse(BaseModel):
    """What is known of items, in the order asked for."""

    items: list[ItemDetails]


class UsersResponse(BaseModel):
    """Some users, to begin with."""

    users: list[str]


def add_web(api: FastAPI, backend: Backend) -> None:
    """Add the routes of the page."""
    for path, (name, kind) in FILES.items():
        _add_file(api, path, (FOLDER / name).read_bytes(), kind)

    @api.get("/v1/users", responses=error_responses(422, 503))
    async def users(
        limit: Annotated[int, Query(ge=1, le=MOST_USERS, description="Most users returned.")] = 10,
    ) -> UsersResponse:
        """Return some users with a history, in no order."""
        return UsersResponse(users=await backend.some_users(limit))

    @api.get("/v1/items", responses=error_responses(422))
    async def items(
        item_ids: Annotated[
            list[NonEmpty], Query(alias="id", min_length=1, max_length=MOST_ITEMS, description="Items.")
        ],
    ) -> ItemsResponse:
        """Return title, category, brand and price of items."""
        return ItemsResponse(items=await backend.items(item_ids))


def _add_file(api: FastAPI, path: str, content: bytes, kind: str) -> None:
    headers = {**HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}

    @api.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request) -> Response:
        if headers["ETag"] in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)
