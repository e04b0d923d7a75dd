"""The files of the web page, and what it asks for beside the rest of the interface."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from serving.backend import Backend
from serving.config import ServeConfig
from serving.routes import build_api
from serving.web_files import FILES, FOLDER


@pytest.fixture
def get(service):
    def send(path: str, **options) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(build_api(Backend(service, ServeConfig())), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.get(path, **options)

        return asyncio.run(run())

    return send


def test_every_file_is_served_and_nothing_else():
    assert {name for name, _ in FILES.values()} == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("path", FILES)
def test_files_have_type_tag_and_policy(get, path):
    answer = get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, FILES[path][1])
    assert answer.content == (FOLDER / FILES[path][0]).read_bytes()
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    again = get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get(path, headers={"If-None-Match": '"old"'}).status_code == 200


def test_nothing_comes_from_elsewhere_and_nothing_is_inline():
    page = (FOLDER / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) == {*FILES, "/docs", "/metrics", "/version"} - {"/"}
    assert "<style" not in page
    assert not re.search(r"\son\w+=|\sstyle=|<script>", page)
    for name in ("index.html", "app.js", "style.css"):
        assert "//" not in re.sub(
            r"^\s*//.*$", "", (FOLDER / name).read_text().replace("http://www.w3.org", ""), flags=re.M
        )


def test_nothing_is_ever_set_as_html():
    script = (FOLDER / "app.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_some_users_have_a_history(get):
    users = get("/v1/users?limit=3").json()["users"]
    assert len(users) == 3
    everybody = get("/v1/users?limit=100").json()["users"]  # other tests may have left some of theirs
    assert {f"u{number}" for number in range(10)} <= set(everybody)
    assert set(users) < set(everybody)
    assert len(everybody) == len(set(everybody))


def test_items_are_described_in_the_order_asked_for(get):
    answer = get("/v1/items?id=i03&id=nobody's&id=i00")
    assert answer.json() == {
        "items": [
            {
                "item_id": "i03",
                "title": "puzzle board dice model3",
                "category": ["aisle1"],
                "brand": None,
                "price": 4.0,
            },
            {"item_id": "nobody's", "title": None, "category": [], "brand": None, "price": None},
            {"item_id": "i00", "title": "kite rope wind model0", "category": ["aisle0"], "brand": None, "price": 1.0},
        ]
    }


@pytest.mark.parametrize("path", ["/v1/users?limit=0", "/v1/users?limit=101", "/v1/items", "/v1/items?id="])
def test_bad_questions_are_refused(get, path):
    answer = get(path)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
