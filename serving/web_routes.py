"""The web page at `/`, and what it asks for beside the rest of the interface."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel

from serving.api import NonEmpty, error_responses
from serving.id_paths import utf8_only
from serving.item_details import ItemDetails
from serving.web_files import FILES, FOLDER, HEADERS

if TYPE_CHECKING:
    from serving.backend import Backend

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

    @api.get("/v1/items", responses=error_responses(422), dependencies=[Depends(utf8_only)])
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
