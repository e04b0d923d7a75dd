"""What the web page shows of a user."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import pytest

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from serving.api import ApiError
from serving.backend import Backend
from serving.config import ServeConfig
from serving.events import EventSpec
from serving.routes import build_api
from serving.service import RecommendService

pytestmark = pytest.mark.integration

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


@pytest.fixture
def over_http(service):
    async def run(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(build_api(Backend(service, ServeConfig())))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return lambda path: asyncio.run(run(path))


def test_over_http(over_http):
    assert len(over_http("/v1/users/u0?limit=2").json()["history"]) == 2
    assert over_http("/v1/users/u0?limit=0").status_code == 422


@pytest.mark.parametrize(
    "name", ["a/b/", "/", "//a", "?x=1", "#", "a%b", "\u00e9\u2028\x85", "{}", "x" * 512, " a ", "some"]
)
def test_every_id_that_events_may_have_can_be_asked_for(over_http, name):
    assert EventSpec(user_id=name, item_id="i", event="click", timestamp=10**12).user_id == name
    assert over_http(f"/v1/users/{quote(name, safe='')}").json()["user_id"] == name


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "\n", "x" * 513, "\u00e9" * 257, " "])
def test_other_ids_are_refused_with_the_reason(over_http, name):
    answer = over_http(f"/v1/users/{quote(name, safe='')}")
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith("path.user_id: ")


def test_an_address_that_is_no_utf8_names_nobody(over_http):
    answer = over_http("/v1/users/a%ff")
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
    assert answer.json()["detail"] == "the address: expected percent-encoded UTF-8, got %FF at byte 12"


def test_without_the_store_503(release):
    with RedisStore("redis://127.0.0.1:1", StoreConfig(timeout_s=0.2)) as gone:
        service = RecommendService(release, gone, history_length=10, arm="a")
        with pytest.raises(ApiError, match="does not answer") as caught:
            service.user("u0", 3)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
