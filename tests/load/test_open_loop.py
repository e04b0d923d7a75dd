"""The generator against a server that stops for a while: the latencies are those of callers who did not wait."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("open_loop", Path(__file__).parent / "open_loop.py")
open_loop = importlib.util.module_from_spec(spec)
sys.modules["open_loop"] = open_loop
spec.loader.exec_module(open_loop)

OK = b'HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{"fallback": "deadline"}'
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


def offered(answers: list[bytes], hold: int, rate: float = 200.0, count: int = 20):
    """Offer `count` requests; the server answers nobody before it has read `hold` of them."""

    async def run():
        read, released = [], asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    writer.close()
                    return
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                number = len(read)
                read.append(number)
                if len(read) == hold:
                    released.set()
                await released.wait()
                writer.write(answers[number % len(answers)])

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            body = open_loop.user_body(["ann", "bob"])
            return await open_loop.offer(f"http://127.0.0.1:{port}/v1/recommend", body, rate, count / rate)

    return asyncio.run(run())


def test_requests_start_when_they_are_due_though_none_is_answered():
    report = offered([OK], hold=20)
    assert report.statuses == {200: 20}
    assert {answer.fallback for answer in report.answers} == {"deadline"}
    # nobody was answered before the last was due, so the first waited for all that time
    assert report.answers[0].latency_s >= 19 / 200


def test_refusals_are_counted_apart():
    report = offered([OK, FULL], hold=1)
    assert report.statuses == {200: 10, 503: 10}
    assert "503: 10" in report.line()


def test_nobody_listening_is_an_answer_too():
    report = asyncio.run(open_loop.offer("http://127.0.0.1:9/x", open_loop.user_body(["u"]), 100.0, 0.05))
    assert report.statuses == {0: 5}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (0.0, 1.0)])
def test_quantiles(share, expected):
    assert open_loop.quantile([1.0, 2.0, 3.0, 4.0], share) == expected
