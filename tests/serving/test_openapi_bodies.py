"""Bodies and parameters made up from the OpenAPI page, right and wrong ones: no 5xx, no crash, answers as described."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.stream.config import StreamConfig
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.gate import Gate, GateSettings
from serving.routes import build_api

Json = dict[str, Any]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Api:
    """The whole HTTP side in process, with the loop that it lives in."""

    def __init__(self, release_folder, store: RedisStore, folder) -> None:
        backend = make_backend(release_folder, store.url, StoreConfig(), StreamConfig(), ServeConfig())
        self.api = build_api(backend)
        self.document: Json = self.api.openapi()
        self._gate = Gate(self.api, GateSettings(serve=ServeConfig(), folder=folder))
        self._loop = asyncio.Runner()
        self._backend = backend

    def send(self, method: str, path: str, **options) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self._gate)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return self._loop.run(run())

    def close(self) -> None:
        self._backend.close()
        self._loop.close()


@pytest.fixture(scope="module")
def api(workspace, release_folder, tmp_path_factory) -> Iterator[Api]:
    with open_store(StoreConfig(), workspace) as store:
        api = Api(release_folder, store, tmp_path_factory.mktemp("gate"))
        yield api
        api.close()


def operations(document: Json) -> list[tuple[str, str, Json]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def like(schema: Json, document: Json) -> st.SearchStrategy[Any]:
    """Return values that a schema describes, with something else here and there."""
    return st.one_of(_exactly(schema, document), _exactly(schema, document), ANYTHING)


def _exactly(schema: Json, document: Json) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return st.deferred(lambda: _exactly(document["components"]["schemas"][schema["$ref"].split("/")[-1]], document))
    if "anyOf" in schema or "oneOf" in schema:
        return st.one_of([_exactly(one, document) for one in schema.get("anyOf") or schema["oneOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, document)
    if kind == "array":
        return st.lists(like(schema.get("items", {}), document), max_size=4)
    simple = {
        "string": st.text(max_size=20) | st.sampled_from(["u0", "i00", "2025-01-01T00:00:00Z"]),
        "integer": st.integers(-3, 100) | st.integers(),
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple.get(str(kind), ANYTHING)


def _object(schema: Json, document: Json) -> st.SearchStrategy[Any]:
    fields = {name: like(field, document) for name, field in schema.get("properties", {}).items()}
    required = {name: fields.pop(name) for name in schema.get("required", ()) if name in fields}
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        return st.dictionaries(st.text(max_size=5), like(more, document), max_size=3)
    return st.fixed_dictionaries(required, optional=fields)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_comes_the_answer_is_one_that_the_page_describes(api, data):
    method, path, operation = data.draw(st.sampled_from(operations(api.document)))
    query = {}
    for parameter in operation.get("parameters", ()):
        value = str(data.draw(like(parameter["schema"], api.document), label=parameter["name"]))
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(value, safe=""))
        else:
            query[parameter["name"]] = value
    body = None
    if "requestBody" in operation:
        made = data.draw(like(operation["requestBody"]["content"]["application/json"]["schema"], api.document))
        body = data.draw(st.sampled_from([json.dumps(made).encode()] * 5 + [b"\xff{"]))
    response = api.send(method, path, params=query, content=body, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text
    _as_described(response, operation, api.document)


def _as_described(response: httpx.Response, operation: Json, document: Json) -> None:
    content = operation["responses"].get(str(response.status_code), {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    if schema:
        jsonschema.validate(response.json(), {**schema, "components": document["components"]})
    elif response.status_code >= 400:
        assert set(response.json()) == {"error", "detail"}
