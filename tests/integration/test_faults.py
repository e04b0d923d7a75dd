"""Faults under load: what users saw, that nothing accepted was lost, how long until all was well again.

Figures go to a file (`told` in conftest.py); docs/reliability.md shows them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from fault_world import GOOD, WITHOUT_RANKER, Load, World, check_log, check_seen, kill, serving, tell, wait_for

from models.recommend.interface import NO_ITEM
from models.recommend.release import load_release
from pipelines.streaming.run import LEASE_S
from serving.fallbacks import STORE_UNAVAILABLE

pytestmark = pytest.mark.integration
FAULT_S = 3.0
"""How long what is stopped stays so."""


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with serving(world) as url:
        yield url


def test_redis_killed(world, url, told) -> None:
    """The stream starts it again; pages come meanwhile, from the popular list."""
    with Load(url, "killed") as load:
        before = world.redis.pid
        kill(before)
        back = wait_for("another Redis", lambda: world.redis.pid not in (None, before))
        good, accepted = load.until_good(), load.until_accepted()
    seconds = check_log(world, load)
    check_seen(load, fallbacks=[STORE_UNAVAILABLE], refusals=["503 stream_unavailable"])
    tell(told, "Redis killed", load, redis=back, pages=back + good, events=back + good + accepted, log=seconds)


@pytest.mark.slow
def test_redis_hangs(world, url, told) -> None:
    with Load(url, "hangs") as load:
        os.kill(world.redis.pid, signal.SIGSTOP)
        try:
            load.until("pages without the store", lambda: load.pages[f"{GOOD} {STORE_UNAVAILABLE}"] > 10)
            time.sleep(FAULT_S)
        finally:
            os.kill(world.redis.pid, signal.SIGCONT)
        good, accepted = load.until_good(), load.until_accepted()
    seconds = check_log(world, load)
    check_seen(load, fallbacks=[STORE_UNAVAILABLE], refusals=["503 stream_unavailable"])
    assert load.retry_after == {"1"}
    tell(told, "Redis hangs", load, pages=good, events=good + accepted, log=seconds)


@pytest.mark.slow
def test_stream_stopped(world, url, told) -> None:
    """Nobody notices, but for what users did lately."""
    with Load(url, "stopped") as load:
        world.stream.send(signal.SIGSTOP)
        time.sleep(FAULT_S)
        world.stream.send(signal.SIGCONT)
    seconds = check_log(world, load)
    check_seen(load)
    tell(told, "stream stopped", load, log=seconds)


@pytest.mark.slow
def test_stream_killed_and_started_again(world, url, told) -> None:
    with Load(url, "crashed") as load:
        world.stream.send(signal.SIGKILL)
        world.stream.start()
        began = time.monotonic()
        before = world.logged("event_log", "event_id").total()
        load.until("the stream goes on", lambda: world.logged("event_log", "event_id").total() > before)
        goes_on = time.monotonic() - began
    seconds = check_log(world, load)
    check_seen(load)
    tell(told, "stream killed", load, goes_on=goes_on, log=goes_on + seconds)


def test_stream_full(world, told) -> None:
    """Events are refused with a time to come back; pages come, and wait in memory for the stream."""
    with serving(world, max_messages=40) as url, Load(url, "full") as load:
        world.stream.send(signal.SIGSTOP)
        try:
            load.until("a full stream", lambda: load.events["503 stream_full"] > 20)
        finally:
            world.stream.send(signal.SIGCONT)
        accepted = load.until_accepted()
    seconds = check_log(world, load)
    check_seen(load, refusals=["503 stream_full"])
    assert load.retry_after == {"5"}
    tell(told, "event stream full", load, events=accepted, log=seconds)


@pytest.mark.parametrize("seconds_full", [FAULT_S, pytest.param(1.5 * LEASE_S, marks=pytest.mark.slow)])
def test_full_disk_under_redis(seconds_full, world, url, told) -> None:
    """Redis answers what it holds and takes nothing new; the stream's lease runs out after a while, too."""
    told_before = world.stream.tells_of_a_full_disk()
    with Load(url, f"full-store-{seconds_full:g}") as load:
        with world.store_disk.full():
            load.until("events are refused", lambda: load.events["503 stream_unavailable"] > 3)
            time.sleep(seconds_full)
        accepted = load.until_accepted()
    seconds = check_log(world, load)
    check_seen(load, refusals=["503 stream_unavailable"])
    assert world.stream.tells_of_a_full_disk() > told_before
    tell(told, f"full disk under Redis, {seconds_full:g} s", load, events=accepted, log=accepted + seconds)


@pytest.mark.slow
def test_full_disk_under_the_log(world, url, told) -> None:
    """The stream waits, and what it would log waits in Redis."""
    told_before = world.stream.tells_of_a_full_disk()
    with Load(url, "full-log") as load, world.log_disk.full():
        load.until("the stream says so", lambda: world.stream.tells_of_a_full_disk() > told_before)
        time.sleep(FAULT_S)
    seconds = check_log(world, load)
    check_seen(load)
    tell(told, "full disk under the log", load, log=seconds)


class FaultyRanker:
    """Orders by number; slow, or raising, when it is told to."""

    name = "ranker"

    def __init__(self) -> None:
        self.seconds, self.raises = 0.0, False

    def score(self, requests, items_BK):
        time.sleep(self.seconds)
        if self.raises:
            raise RuntimeError("out of memory")
        return np.where(items_BK == NO_ITEM, -np.inf, items_BK).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["slow ranker", "raising ranker"])
def test_faulty_ranker(fault, world, told, monkeypatch) -> None:
    """It is left out, rests, and is asked again after five seconds."""
    release, ranker = load_release(world.release), FaultyRanker()
    maker = release.recommender.with_parts(ranker=ranker)
    monkeypatch.setattr("serving.arms.load_release", lambda _: dataclasses.replace(release, recommender=maker))
    with serving(world) as url, Load(url, fault) as load:
        ranker.seconds, ranker.raises = (1.5, False) if fault == "slow ranker" else (0.0, True)
        load.until("pages without the ranker", lambda: load.pages[f"{GOOD} {WITHOUT_RANKER}"] > 10)
        ranker.seconds, ranker.raises = 0.0, False
        good = load.until_good()
    seconds = check_log(world, load)
    check_seen(load, fallbacks=[WITHOUT_RANKER])
    tell(told, fault, load, pages=good, log=seconds)


def test_nothing_was_served_that_should_not_have_been(url) -> None:
    """Comes last: after all faults, no item was unknown, withdrawn or seen before."""
    told = httpx.get(f"{url}/metrics", timeout=60).text
    assert set(re.findall(r"^pagewise_invalid_items_total\{.*\} (\S+)$", told, re.MULTILINE)) <= {"0.0"}
