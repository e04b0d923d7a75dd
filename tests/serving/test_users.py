"""What the web page shows of a user."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from serving.api import ApiError
from serving.backend import Backend
from serving.config import ServeConfig
from serving.routes import build_api
from serving.service import RecommendService

DAY = 86_400_000


def test_a_known_user_newest_event_first(service):
    user = service.user("u0", 3)
    # u0 clicked item 2 p on page p, at p days; item n is "<word> model<n % 5>"
    assert [(item.item_id, item.event, item.timestamp) for item in user.history] == [
        ("i08", "click", 4 * DAY),
        ("i06", "click", 3 * DAY),
        ("i04", "click", 2 * DAY),
    ]
    assert user.history[0].title == "kite rope wind model3"
    assert (user.known, user.newest_event_time) == (True, 4 * DAY)
    assert user.age_s > 0


def test_an_unknown_user(service):
    user = service.user("nobody", 3)
    assert (user.known, user.history, user.newest_event_time, user.age_s) == (False, [], None, None)


def test_over_http(service):
    async def run(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(build_api(Backend(service, ServeConfig())))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    assert len(asyncio.run(run("/v1/users/u0?limit=2")).json()["history"]) == 2
    assert asyncio.run(run("/v1/users/a%2Fb")).json()["user_id"] == "a/b"
    assert asyncio.run(run("/v1/users/u0?limit=0")).status_code == 422


def test_without_the_store_503(release):
    with RedisStore("redis://127.0.0.1:1", StoreConfig(timeout_s=0.2)) as gone:
        service = RecommendService(release, gone, history_length=10, arm="a")
        with pytest.raises(ApiError, match="does not answer") as caught:
            service.user("u0", 3)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
