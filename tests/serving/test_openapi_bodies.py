"""Requests made up from the OpenAPI page, right and wrong ones: no 5xx, no crash, answers as described."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from features.store.config import StoreConfig
from features.store.redis_store import open_store
from features.stream.config import StreamConfig
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.exchange import Receive, Scope, Send
from serving.gate import Gate, GateSettings
from serving.routes import build_api

pytestmark = pytest.mark.integration

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def page(workspace, release_folder, tmp_path_factory) -> Iterator[BaseSchema]:
    with open_store(StoreConfig(), workspace) as store:
        api = build_api(make_backend(release_folder, store.url, StoreConfig(), StreamConfig(), ServeConfig()))
        gate = Gate(api, GateSettings(serve=ServeConfig(), folder=tmp_path_factory.mktemp("gate")))

        async def gated(scope: Scope, receive: Receive, send: Send) -> None:
            """Let requests through the gate, and begin and end the application as a server does."""
            await (gate if scope["type"] == "http" else api)(scope, receive, send)

        yield schemathesis.openapi.from_asgi("/openapi.json", gated)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_answer_is_one_that_the_page_describes(page, data):
    operation = data.draw(st.sampled_from([found.ok() for found in page.get_all_operations()]), label="operation")
    mode = data.draw(st.sampled_from(GenerationMode), label="mode")
    case = data.draw(operation.as_strategy(generation_mode=mode))
    case.call_and_validate(checks=CHECKS)
