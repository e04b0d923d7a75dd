"""What is answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from serving.batching import Batcher


class Maker:
    """Answers a batch once it is told to, and remembers which ones there were."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_end = asyncio.Event()

    async def __call__(self, requests: list[int]) -> list[int]:
        self.batches.append(requests)
        await self.may_end.wait()
        if 13 in requests:
            raise ValueError("13")
        return [10 * request for request in requests]


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 20))


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_comes_while_a_batch_is_made_is_the_next_one():
    async def scene() -> None:
        make = Maker()
        batcher = Batcher(make, most=3)
        asked = [asyncio.create_task(batcher.ask(0))]
        await settled()
        asked += [asyncio.create_task(batcher.ask(number)) for number in range(1, 6)]
        await settled()
        assert make.batches == [[0]]
        make.may_end.set()
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40, 50]
        assert make.batches == [[0], [1, 2, 3], [4, 5]]

    run(scene())


def test_who_waits_no_more_is_left_out():
    async def scene() -> None:
        make = Maker()
        batcher = Batcher(make, most=3)
        first = asyncio.create_task(batcher.ask(0))
        await settled()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.ask(1), 0.001)
        second = asyncio.create_task(batcher.ask(2))
        make.may_end.set()
        assert await asyncio.gather(first, second) == [0, 20]
        assert make.batches == [[0], [2]]

    run(scene())


def test_a_batch_that_fails_is_no_end():
    async def scene() -> None:
        make = Maker()
        make.may_end.set()
        batcher = Batcher(make, most=2)
        answers = await asyncio.gather(*(batcher.ask(number) for number in (12, 13, 14)), return_exceptions=True)
        assert [repr(answer) for answer in answers] == ["ValueError('13')", "ValueError('13')", "140"]
        assert await batcher.ask(15) == 150

    run(scene())


def test_a_batch_waits_for_company_until_it_is_full():
    async def scene() -> None:
        make = Maker()
        make.may_end.set()
        batcher = Batcher(make, most=2, wait_s=3600)
        first = asyncio.create_task(batcher.ask(0))
        await settled()
        assert make.batches == []
        assert (await batcher.ask(1), await first) == (10, 0)
        assert make.batches == [[0, 1]]
        soon = Batcher(make, most=2, wait_s=0.001)
        assert await soon.ask(2) == 20

    run(scene())
