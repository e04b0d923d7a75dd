"""HTTP without Ray: routes, deadlines and errors, over the real core."""

from __future__ import annotations

import asyncio
import gzip
import threading

import httpx
import pytest

from serving.api import RecommendRequest
from serving.backend import Backend
from serving.config import ServeConfig
from serving.routes import build_api

pytestmark = pytest.mark.integration


@pytest.fixture
def call(service):
    """Send one request to a fresh application."""

    def send(method: str, path: str, config: ServeConfig | None = None, **options) -> httpx.Response:
        async def run() -> httpx.Response:
            api = build_api(Backend(service, config or ServeConfig()))
            transport = httpx.ASGITransport(api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return send


def test_recommend(call, release):
    response = call("POST", "/v1/recommend", json={"user_id": "u0", "page_size": 3, "context": {"device": "phone"}})
    answer = response.json()
    assert response.status_code == 200
    assert set(answer) == {
        "request_id",
        "items",
        "next_cursor",
        "release",
        "delta",
        "policy",
        "arm",
        "fallback",
        "reason",
    }
    assert answer["release"] == release.manifest.release_id
    assert [set(item) for item in answer["items"]] == [{"item_id", "score", "source"}] * 3


def test_a_filter_that_leaves_nothing_is_no_error(call):
    body = {"user_id": "u0", "filters": {"brand": "nobody's", "min_price": 2}}
    response = call("POST", "/v1/recommend", json=body)
    assert (response.status_code, response.json()["items"]) == (200, [])
    assert response.json()["reason"] == (
        'no item of the catalogue passes the filters brand="nobody\'s", min_price=2.0 at this moment'
    )


def test_explain_adds_score_parts(call):
    answer = call("POST", "/v1/recommend?explain=true", json={"user_id": "u0"}).json()
    assert set(answer["items"][0]["parts"]) == {"genrec", "transitions", "popular"}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "body.user_id: Field required"),
        ({"user_id": ""}, "body.user_id: String should have at least 1 character, got ''"),
        ({"user_id": 7}, "body.user_id: Input should be a valid string, got 7"),
        ({"user_id": "u0", "page_size": 0}, "body.page_size: Input should be greater than or equal to 1, got 0"),
        ({"user_id": "u0", "page_size": 51}, "page_size: expected 1 to 50, got 51"),
        ({"user_id": "u0", "page_size": "5"}, "body.page_size: Input should be a valid integer, got '5'"),
        ({"user_id": "u0", "pagesize": 5}, "body.pagesize: Extra inputs are not permitted, got 5"),
        (
            {"user_id": "u0", "filters": {"colour": "red"}},
            "body.filters.colour: Extra inputs are not permitted, got 'red'",
        ),
        (
            {"user_id": "u0", "filters": {"max_price": -1}},
            "body.filters.max_price: Input should be greater than or equal",
        ),
        (
            {"user_id": "u0", "context": {f"k{entry}": "v" for entry in range(33)}},
            "body.context: Dictionary should have at most 32 items",
        ),
        (
            {"user_id": "u0", "context": {"device": "x" * 1025}},
            "body.context.device: String should have at most 1024 characters",
        ),
    ],
    ids=[
        "no user",
        "empty user",
        "number as user",
        "no items",
        "too many items",
        "text as number",
        "typo",
        "unknown filter",
        "bad price",
        "large context",
        "long context",
    ],
)
def test_bad_requests_say_what_is_wrong(call, body, detail):
    response = call("POST", "/v1/recommend", json=body)
    assert response.status_code == 422
    assert response.json()["error"] == "invalid_request"
    assert response.json()["detail"].startswith(detail)


def test_all_mistakes_of_a_request_are_named(call):
    response = call("POST", "/v1/recommend", json={"user_id": "", "page_size": 0})
    assert response.json()["detail"].count("body.") == 2


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{nope", "Expecting property name enclosed in double quotes at character 2"),
        (b'{"user_id": "a\xff"}', "expected UTF-8, got byte 0xff at byte 15"),
        (b"[" * 100_000, "expected objects and lists nested at most some"),
        (b'{"page_size": ' + b"1" * 5000 + b"}", "expected numbers of at most 4300 digits, got a longer one"),
    ],
    ids=["no JSON", "no UTF-8", "too deep", "too long a number"],
)
def test_broken_json_is_400(call, body, detail):
    response = call("POST", "/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]) == (400, "bad_json")
    assert response.json()["detail"].startswith(f"the body is no JSON: {detail}")


def test_a_packed_body_is_415(call):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = call("POST", "/v1/recommend", content=gzip.compress(b'{"user_id": "u0"}'), headers=headers)
    assert (response.status_code, response.json()["error"]) == (415, "packed_body")
    assert "expected a body as it is, got one with the header Content-Encoding: gzip" in response.json()["detail"]


def test_a_body_that_does_not_say_it_is_json(call):
    response = call("POST", "/v1/recommend", content=b'{"user_id": "u0"}', headers={"content-type": "text/plain"})
    assert response.status_code == 422
    assert response.json()["detail"].startswith(
        "body: expected JSON and the header Content-Type: application/json, got"
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/recommend", 405, "method_not_allowed"),
        ("GET", "/v1/items/zz/similar", 404, "unknown_item"),
        ("GET", "/v1/items/a%0Ab/similar", 422, "invalid_request"),
        ("GET", "/v1/items/%FF/similar", 422, "invalid_request"),
        ("GET", "/v1/items?id=%FF", 422, "invalid_request"),
        ("GET", "/v1/items/i00/similar?k=0", 422, "invalid_request"),
        ("GET", "/v1/items/i00/similar?k=x", 422, "invalid_request"),
    ],
)
def test_other_errors_are_json_too(call, method, path, status, error):
    response = call(method, path)
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert response.json()["detail"]


def test_an_unknown_item_is_named(call):
    assert call("GET", "/v1/items/zz/similar").json()["detail"].startswith("item 'zz' is not in the catalogue")


def test_similar(call):
    answer = call("GET", "/v1/items/i00/similar?k=2").json()
    assert (answer["item_id"], answer["items"][0]["item_id"]) == ("i00", "i02")


def test_operations(call, release):
    assert call("GET", "/health").json() == {"status": "ok"}
    assert call("GET", "/ready").json() == {"status": "ready", "release": release.manifest.release_id}
    assert call("GET", "/version").json()["arm"] == "champion"
    assert "/v1/recommend" in call("GET", "/openapi.json").json()["paths"]


def test_metrics_count_requests_by_route_not_by_path(call):
    call("GET", "/v1/items/i00/similar")
    call("GET", "/v1/items/zz/similar")
    call("GET", "/nowhere/17")
    text = call("GET", "/metrics").text
    assert 'pagewise_requests_total{route="/v1/items/{item_id:id}/similar",status="200"} 1.0' in text
    assert 'pagewise_requests_total{route="/v1/items/{item_id:id}/similar",status="404"} 1.0' in text
    assert 'pagewise_requests_total{route="unmatched",status="404"} 1.0' in text
    assert "nowhere" not in text


def test_unexpected_failure_is_500_with_a_reason(call, service, monkeypatch):
    monkeypatch.setattr(service, "recommend", lambda requests: 1 / 0)
    response = call("POST", "/v1/recommend", json={"user_id": "u0"})
    assert (response.status_code, response.json()["error"]) == (500, "internal")
    assert response.json()["detail"].startswith("ZeroDivisionError")


def test_after_the_deadline_the_popular_list_answers(call, service, monkeypatch):
    released = threading.Event()
    slow = service.recommend
    monkeypatch.setattr(service, "recommend", lambda requests: (released.wait(30), slow(requests))[1])
    config = ServeConfig(request_timeout_s=0.05)
    try:
        response = call("POST", "/v1/recommend", config, json={"user_id": "nobody", "page_size": 2})
    finally:
        released.set()
    assert response.json()["fallback"] == "deadline"
    assert [item["item_id"] for item in response.json()["items"]] == ["i11", "i10"]


def test_item_facts_are_refreshed_while_serving(service):
    async def run() -> None:
        backend = Backend(service, ServeConfig(refresh_s=0.001))
        api = build_api(backend)
        async with api.router.lifespan_context(api):
            while service._facts_generation is None:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(run(), 20))
    assert service.recommend([RecommendRequest(user_id="nobody", page_size=1)])[0].page.items[0].item_id == "i11"


def test_item_facts_are_refreshed_after_a_failure_nobody_thought_of(service, monkeypatch):
    real, tries = service.refresh_facts, []

    def refresh() -> bool:
        tries.append(len(tries))
        if len(tries) == 1:
            raise ValueError("column 'title': 1 nulls, expected none")
        return real()

    async def run() -> None:
        refreshing = asyncio.create_task(Backend(service, ServeConfig(refresh_s=0.001)).refresh_forever())
        while service._facts_generation is None and not refreshing.done():
            await asyncio.sleep(0.001)
        assert refreshing.cancel()

    monkeypatch.setattr(service, "refresh_facts", refresh)
    asyncio.run(run())
    assert len(tries) >= 2
