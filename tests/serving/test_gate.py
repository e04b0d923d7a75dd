"""The gate around stand-ins for what answers behind it: each refusal is JSON, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from serving.access import new_key
from serving.admission import LEAST
from serving.config import ServeConfig
from serving.exchange import LOG_HEADER
from serving.gate import Gate, GateSettings
from serving.health import Drain

Client = httpx.AsyncClient


async def page(scope, receive, send) -> None:
    """Answer like a replica: read the body, send it back."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message.get("more_body", False)
    noted = json.dumps({"route": "/v1/recommend", "release": "r1", "arm": "champion", "fallback": None, "page": "p1"})
    headers = [(b"content-type", b"application/json"), (LOG_HEADER, noted.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    seen = {name.decode(): value.decode() for name, value in scope["headers"]}
    await send({"type": "http.response.body", "body": json.dumps({"headers": seen, "bytes": len(body)}).encode()})


def text(status: int) -> Callable[..., Awaitable[None]]:
    """Answer like Ray Serve itself."""

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Ping http://.../-/routes"})

    return app


async def silent(scope, receive, send) -> None:
    """End without an answer, as Serve's proxy does when a replica died."""


def gate(folder: Path, app=page, **options) -> Gate:
    return Gate(app, GateSettings(serve=ServeConfig(**options), folder=folder))


def ask(gate: Gate, *requests: tuple, address: str = "127.0.0.1") -> list[httpx.Response]:
    """Send requests one after the other."""

    async def run() -> list[httpx.Response]:
        async with client_of(gate, address) as client:
            return [await client.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(run())


def client_of(gate: Gate, address: str = "127.0.0.1") -> Client:
    return Client(transport=httpx.ASGITransport(gate, client=(address, 1)), base_url="http://test")


ASK = ("POST", "/v1/recommend", {"content": b"{}"})


def refusal(response: httpx.Response) -> tuple[int, str, str | None]:
    assert response.json()["detail"]
    return response.status_code, response.json()["error"], response.headers.get("retry-after")


def test_what_is_let_in_comes_back_with_a_request_id(tmp_path):
    own, bad = ({"content": b"{}", "headers": {"x-request-id": name}} for name in ("ann-1", "a b"))
    first, second = ask(gate(tmp_path), (*ASK[:2], own), (*ASK[:2], bad))
    assert first.status_code == 200
    assert first.headers["x-request-id"] == first.json()["headers"]["x-request-id"] == "ann-1"
    assert len(second.headers["x-request-id"]) == 32
    assert LOG_HEADER.decode() not in first.headers


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (text(404), (503, "starting", "5")),
        (text(503), (503, "unavailable", "1")),
        (text(408), (503, "unavailable", "1")),
        (text(500), (503, "unavailable", "1")),
        (silent, (503, "unavailable", "1")),
    ],
    ids=["no application", "no replica", "too slow", "failed", "no answer"],
)
def test_what_serve_itself_would_say_is_json(tmp_path, app, expected):
    (response,) = ask(gate(tmp_path, app), ASK)
    assert refusal(response) == expected


def test_more_than_may_be_in_flight_is_refused_at_once_and_probes_are_not(tmp_path):
    async def run() -> None:
        let_go = asyncio.Event()

        async def slow(scope, receive, send) -> None:
            if scope["path"] == "/v1/recommend":
                await let_go.wait()
            await page(scope, receive, send)

        full = gate(tmp_path, slow, max_in_flight=2, max_batch=2)
        async with client_of(full) as client:
            inside = [asyncio.create_task(client.post("/v1/recommend", content=b"{}")) for _ in range(2)]
            while full.metrics.in_flight._value.get() < 2:
                await asyncio.sleep(0)
            assert refusal(await client.post("/v1/recommend", content=b"{}")) == (503, "overloaded", "1")
            assert (await client.get("/health")).status_code == 200
            let_go.set()
            assert {(await task).status_code for task in inside} == {200}
            assert (await client.post("/v1/recommend", content=b"{}")).status_code == 200
        assert full.metrics.in_flight._value.get() == 0

    asyncio.run(run())


def test_pages_that_take_long_make_room_for_fewer_and_what_is_no_page_is_let_in(tmp_path):
    async def run() -> None:
        async def slow(scope, receive, send) -> None:
            async def later(message) -> None:
                if scope["path"] == "/v1/recommend" and message["type"] == "http.response.start":
                    await asyncio.sleep(0.02)
                await send(message)

            await page(scope, receive, later)

        learning = gate(tmp_path, slow, max_batch=6, request_timeout_s=0.04)  # the target is a quarter of that
        async with client_of(learning) as client:

            async def statuses(pages: int) -> Counter[int]:
                sent = (client.post("/v1/recommend", content=b"{}") for _ in range(pages))
                return Counter(answer.status_code for answer in await asyncio.gather(*sent))

            assert await statuses(8) == {200: 6, 503: 2}
            assert learning.metrics.page_limit._value.get() == LEAST
            inside = asyncio.create_task(statuses(LEAST))
            await asyncio.sleep(0)
            while learning.metrics.in_flight._value.get() < LEAST:
                await asyncio.sleep(0)
            assert (await client.post("/v1/events", content=b"{}")).status_code == 200
            assert await inside == {200: LEAST}

    asyncio.run(run())


def test_what_hangs_is_given_up_and_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.gate.SLACK_S", 0.0)

    async def run() -> httpx.Response:
        told = asyncio.Event()

        async def hang(scope, receive, send) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            told.set()

        async with client_of(gate(tmp_path, hang, request_timeout_s=0.05)) as client:
            response = await client.post("/v1/recommend", content=b"{}")
            await asyncio.wait_for(told.wait(), 20)
            return response

    assert refusal(asyncio.run(run())) == (503, "unavailable", "1")


def test_draining_takes_nothing_new(tmp_path):
    draining = gate(tmp_path)
    assert ask(draining, ("GET", "/ready", {}))[0].status_code == 200
    Drain(tmp_path).begin()
    new, ready, health = ask(draining, ASK, ("GET", "/ready", {}), ("GET", "/health", {}))
    assert refusal(new) == refusal(ready) == (503, "draining", "5")
    assert health.status_code == 200


def test_only_this_machine_or_the_operator_may_drain(tmp_path):
    drain = ("POST", "/drain", {})
    assert ask(gate(tmp_path), drain)[0].status_code == 200
    assert refusal(ask(gate(tmp_path), drain, address="10.0.0.1")[0]) == (403, "forbidden", None)
    (shop, shop_line), (operator, operator_line) = new_key("shop"), new_key("operator")
    (tmp_path / "keys").write_text(f"{shop_line}\n{operator_line}\n")
    locked = gate(tmp_path, keys_file=str(tmp_path / "keys"))
    statuses = [
        ask(locked, ("POST", "/drain", {"headers": {"x-api-key": key}}))[0].status_code for key in (shop, operator)
    ]
    assert statuses == [403, 200]


def test_without_a_key_nothing_but_health_is_told_and_replicas_never_see_one(tmp_path):
    key, line = new_key("shop")
    (tmp_path / "keys").write_text(line)
    locked = gate(tmp_path, keys_file=str(tmp_path / "keys"))
    right = {"content": b"{}", "headers": {"authorization": f"Bearer {key}"}}
    wrong = {"content": b"{}", "headers": {"x-api-key": key[:-1]}}
    let_in, refused, none, health, metrics = ask(
        locked, (*ASK[:2], right), (*ASK[:2], wrong), ASK, ("GET", "/health", {}), ("GET", "/metrics", {})
    )
    assert let_in.status_code == health.status_code == 200
    assert key not in let_in.text
    assert [refusal(response)[:2] for response in (refused, none, metrics)] == [(401, "unauthorized")] * 3
    assert refused.headers["www-authenticate"] == "Bearer"


def test_the_web_page_comes_without_a_key_and_asks_for_it(tmp_path):
    (tmp_path / "keys").write_text(new_key("shop")[1])
    keyed = gate(tmp_path, keys_file=str(tmp_path / "keys"))
    answers = ask(keyed, *(("GET", path, {}) for path in ("/", "/web/app.js", "/web/other.js", "/v1/users")))
    assert [answer.status_code for answer in answers] == [200, 200, 401, 401]


def test_large_bodies_are_refused_whether_they_say_how_large_they_are_or_not(tmp_path):
    async def pieces():
        for _ in range(3):
            yield b"x" * 5

    small = gate(tmp_path, max_body_bytes=10)
    fits, told, untold = ask(
        small, (*ASK[:2], {"content": b"x" * 10}), (*ASK[:2], {"content": b"x" * 11}), (*ASK[:2], {"content": pieces()})
    )
    assert fits.json()["bytes"] == 10
    assert refusal(told) == refusal(untold) == (413, "too_large", None)


def test_a_body_that_drips_in_holds_nobodys_place(tmp_path):
    async def run() -> None:
        more = asyncio.Event()

        async def drops():
            yield b"{"
            await more.wait()
            yield b"}"

        one_at_once = gate(tmp_path, max_in_flight=1, max_batch=1, request_timeout_s=30)
        async with client_of(one_at_once) as client:
            slow = asyncio.create_task(client.post("/v1/recommend", content=drops()))
            for _ in range(10):
                await asyncio.sleep(0)
            assert (await client.post("/v1/recommend", content=b"{}")).status_code == 200
            more.set()
            assert (await slow).json()["bytes"] == 2

    asyncio.run(run())


def test_a_body_that_never_ends_is_given_up(tmp_path):
    async def run() -> httpx.Response:
        async def first_drop():
            yield b"{"
            await asyncio.Event().wait()

        async with client_of(gate(tmp_path, request_timeout_s=0.05)) as client:
            return await client.post("/v1/recommend", content=first_drop())

    answer = asyncio.run(run())
    assert refusal(answer) == (408, "too_slow", None)
    assert "within 0.05 s, got 1 bytes" in answer.json()["detail"]


def test_a_caller_who_leaves_before_the_body_is_there_is_noted(tmp_path):
    left = gate(tmp_path, log_file=str(tmp_path / "requests.jsonl"))

    async def run() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "headers": []}

        async def receive():
            return {"type": "http.disconnect"}

        await left(scope, receive, lambda message: pytest.fail(f"nobody is there for {message}"))

    asyncio.run(run())
    assert json.loads((tmp_path / "requests.jsonl").read_text())["status"] == 499


def test_too_many_requests_of_one_address_are_refused_and_others_are_not(tmp_path):
    limited = gate(tmp_path, rate_per_s=0.1)
    first, second = ask(limited, ASK, ASK)
    assert (first.status_code, refusal(second)[:2]) == (200, (429, "rate_limited"))
    assert 1 <= int(second.headers["retry-after"]) <= 10
    assert ask(limited, ASK, address="10.0.0.1")[0].status_code == 200


def test_serves_own_pages_are_not_shown_and_nobody_steers_serve(tmp_path):
    steering = {"content": b"{}", "headers": {"x-request-timeout-seconds": "0.001"}}
    routes, steered = ask(gate(tmp_path), ("GET", "/-/routes", {}), (*ASK[:2], steering))
    assert refusal(routes) == (404, "not_found", None)
    assert "x-request-timeout-seconds" not in steered.json()["headers"]


def test_haproxy_may_ask_serve_how_a_replica_is_and_everybody_is_told_apart_by_key_only(tmp_path):
    settings = GateSettings(serve=ServeConfig(rate_per_s=0.1), folder=tmp_path, per_replica=True)
    behind = Gate(text(503), settings)
    (healthz,) = ask(behind, ("GET", "/-/healthz", {}))
    assert (healthz.status_code, healthz.text) == (503, "Ping http://.../-/routes")
    answers = ask(Gate(page, settings), ASK, ASK, ("POST", "/drain", {}))
    assert [answer.status_code for answer in answers] == [200, 200, 403]


def test_the_log_has_one_line_per_request_without_paths_addresses_or_keys(tmp_path):
    key, line = new_key("shop")
    (tmp_path / "keys").write_text(line)
    logged = gate(tmp_path, log_file=str(tmp_path / "log" / "requests.jsonl"), keys_file=str(tmp_path / "keys"))
    ask(logged, (*ASK[:2], {"headers": {"x-api-key": key}}), ("GET", "/v1/users/ann@example.com", {}))
    content = (tmp_path / "log" / "requests.jsonl").read_text()
    page_line, refused_line = (json.loads(entry) for entry in content.splitlines())
    kept = ("method", "route", "status", "release", "arm", "fallback", "page", "key")
    assert [page_line[name] for name in kept] == [*("POST", "/v1/recommend", 200, "r1", "champion", None, "p1", "shop")]
    assert page_line["ms"] > 0
    assert (refused_line["route"], refused_line["status"], refused_line["refused"]) == (
        "/v1/users",
        401,
        "unauthorized",
    )
    assert not any(word in content for word in ("ann@", "127.0.0.1", key))


def test_refusals_are_counted_by_reason(tmp_path):
    counted = gate(tmp_path, text(404))
    ask(counted, ASK, ASK, ("GET", "/-/routes", {}))
    values = {reason: counted.metrics.refused.labels(reason)._value.get() for reason in ("starting", "not_found")}
    assert values == {"starting": 2, "not_found": 1}


def test_settings_come_back_as_they_went(tmp_path):
    settings = GateSettings(serve=ServeConfig(max_in_flight=40, keys_file="keys"), folder=tmp_path)
    assert GateSettings.from_json(settings.to_json()) == settings
