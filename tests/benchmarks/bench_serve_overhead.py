"""What the service adds to the time of its page maker: Ray Serve with its gate against plain uvicorn, one caller.

Both sides serve the same release over the same store and must give the same pages; the page maker's own median, in
this process, is taken off both. The second row is why refusals are made at the gate: a refusal there against one that
has to reach a replica. What is compared takes turns, page by page, so that load on the machine hits all alike.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent / "models" / "recommend"))

from release_cases import make_genrec, make_release, make_workspace

from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.stream.config import StreamConfig
from serving.api import RecommendRequest
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.pages import Answer
from serving.run import start_background

NAME = "serve_overhead_p50_ms"
STORE, SERVE = StoreConfig(), ServeConfig(port=0, request_timeout_s=30.0)
USERS = [f"u{number}" for number in range(10)]
REQUESTS, WARM_UP = 400, 50
Side = Callable[[str], tuple[Any, float]]
"""Answers what is asked for, and tells the milliseconds it took."""

PLAIN = """
import sys, uvicorn, torch
from pathlib import Path
from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.routes import build_api

torch.set_num_threads(1)
serve = ServeConfig(request_timeout_s=30.0)
backend = make_backend(Path(sys.argv[1]), sys.argv[2], StoreConfig(), StreamConfig(), serve)
uvicorn.run(build_api(backend), port=int(sys.argv[3]), log_level="warning", access_log=False)
"""


class Caller:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any, float]:
        """Return status, answer and milliseconds."""
        sent = None if body is None else json.dumps(body).encode()
        began = time.perf_counter()
        self._connection.request(method, path, sent, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content), 1000 * (time.perf_counter() - began)

    def page(self, user: str) -> tuple[list[str], float]:
        """Return the items of a page and milliseconds."""
        status, answer, took = self.ask("POST", "/v1/recommend", {"user_id": user})
        assert status == 200, answer
        return [item["item_id"] for item in answer["items"]], took


def run(full: bool) -> list[dict[str, Any]]:
    """Measure pages and refusals."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder) / "workspace")
        releases = workspace.local_path("releases")
        release = releases / make_release(releases, workspace, make_genrec(workspace), epsilon=0.0).release_id
        with open_store(STORE, workspace) as store:
            backfill(workspace, store, STORE)
            with start_background(workspace, release, STORE, SERVE) as service, _plain(release, store) as plain_url:
                return _measured(Caller(service.url), Caller(plain_url), _page_maker(release, store))


def _measured(serve: Caller, plain: Caller, page: Side) -> list[dict[str, Any]]:
    ours, peer, own_ms = _in_turn(USERS, serve.page, plain.page, page)
    at_gate, at_replica = _in_turn(
        ["/-/nowhere"],
        lambda path: serve.ask("GET", path)[1:],
        lambda path: serve.ask("GET", path[2:])[1:],
        same=False,
    )
    print(f"page maker alone {own_ms:.2f} ms; over HTTP: Ray Serve {ours:.2f} ms, uvicorn {peer:.2f} ms (medians)")
    return [
        _result(NAME, ours - own_ms, peer - own_ms, "plain uvicorn"),
        _result(f"{NAME}: a refusal at the gate", at_gate, at_replica, "a refusal in a replica"),
    ]


def _in_turn(asked: Sequence[str], *sides: Side, same: bool = True) -> list[float]:
    """Return the median of each side, warmed up, after checking that they answer alike."""
    times = []
    for number in range(WARM_UP + REQUESTS):
        answers = [side(asked[number % len(asked)]) for side in sides]
        assert not same or all(answer == answers[0][0] for answer, _ in answers), answers
        times.append([took for _, took in answers])
    return [statistics.median(column) for column in zip(*times[WARM_UP:], strict=True)]


def _page_maker(release: Path, store: RedisStore) -> Side:
    """Return what makes a page in this process, without HTTP."""
    service = make_backend(release, store.url, STORE, StreamConfig(), SERVE).service

    def page(user: str) -> tuple[list[str], float]:
        began = time.perf_counter()
        (answer,) = service.recommend([RecommendRequest(user_id=user)])
        took = 1000 * (time.perf_counter() - began)
        assert isinstance(answer, Answer), answer
        return [item.item_id for item in answer.page.items], took

    return page


@contextlib.contextmanager
def _plain(release: Path, store: RedisStore) -> Iterator[str]:
    port = _free_port()
    command = [sys.executable, "-c", PLAIN, str(release), store.url, str(port)]
    with subprocess.Popen(command) as server:
        try:
            _wait(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError):
            Caller(f"http://127.0.0.1:{port}").ask("GET", "/health")
            return
        time.sleep(0.2)
    raise RuntimeError("uvicorn did not start")


def _result(name: str, ours: float, peer: float, peer_name: str) -> dict[str, Any]:
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "unit": "ms",
        "ratio": peer / ours,
        "better": "lower",
    }
