"""Killed between any two steps, and at random times: the log holds every row once, the store what it should hold.

Many of the steps are the same code on the other shard, or in the next of three ranges; all are taken. With one shard a
range is one step of Beam, with two it is several.
"""

from __future__ import annotations

import dataclasses
import queue
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import stream_world as world
from crashes import ENDED, KILLED, Crasher, crasher

from features.store.backfill import STREAM
from features.store.redis_store import RedisStore

pytestmark = pytest.mark.integration
SOME_STEPS = 5
AT_ONCE = 2
"""Proofs that hold everything use both cores."""


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed: its shards, how many steps and seconds it took, and what it left behind."""

    shards: int
    steps: int
    seconds: float
    logged: dict[str, list[dict[str, Any]]]
    counts: dict[str, int]
    held: dict[tuple[str, str], bytes | None]

    def check_equal(self, folder: Path, redis_url: str, namespace: str) -> None:
        """Check that another run has left the same behind."""
        assert world.logged(folder) == self.logged
        assert world.counts(folder) == self.counts
        assert world.held(redis_url, namespace) == self.held


@pytest.fixture(scope="module")
def crashing() -> Iterator[Crasher]:
    with crasher() as opened:
        yield opened


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(
    crashing: Crasher, redis_url: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Undisturbed:
    folder, namespace = tmp_path_factory.mktemp("undisturbed"), f"undisturbed{request.param}"
    world.append(redis_url, namespace, world.messages())
    ended = crashing.run(folder, redis_url, namespace, shards=request.param)
    assert ended["how"] == ENDED
    assert ended["steps"] > 100
    left = world.logged(folder), world.counts(folder), world.held(redis_url, namespace)
    return Undisturbed(request.param, ended["steps"], ended["seconds"], *left)


def bury(redis_url: str, namespace: str) -> None:
    """Free the lease of a killed process: its test need not wait until it runs out."""
    with RedisStore(redis_url, world.store_config(redis_url, namespace)) as store:
        store.client.delete(store.keys.lease(STREAM))


def survive(crashing: Crasher, folder: Path, redis_url: str, undisturbed: Undisturbed, step: int) -> None:
    """Be killed before a step, and go on."""
    namespace = f"{folder.parent.name}-{folder.name}"
    world.append(redis_url, namespace, world.messages())
    shards = undisturbed.shards
    killed = crashing.run(folder, redis_url, namespace, step=step, shards=shards)["how"] == KILLED
    # how many steps there are varies by a few: a compaction may be ready one range later
    assert killed or step > 0.9 * undisturbed.steps
    bury(redis_url, namespace)
    assert crashing.run(folder, redis_url, namespace, shards=shards)["how"] == ENDED
    undisturbed.check_equal(folder, redis_url, namespace)


def side_by_side(proof: Callable[[Crasher, int], None], numbers: range) -> None:
    """Hold a proof for each number, several at a time, and raise the first failure."""
    with crasher() as first, crasher() as second, ThreadPoolExecutor(AT_ONCE) as pool:
        idle = queue.SimpleQueue[Crasher]()
        idle.put(first)
        idle.put(second)

        def hold(number: int) -> None:
            mine = idle.get()
            try:
                proof(mine, number)
            finally:
                idle.put(mine)

        for done in [pool.submit(hold, number) for number in numbers]:
            done.result()


def test_the_undisturbed_run_wrote_everything(undisturbed) -> None:
    assert undisturbed.counts["events.logged"] > 50
    assert {view for (view, _), payload in undisturbed.held.items() if payload is not None} == {
        *world.USER_VIEWS,
        *world.ITEM_VIEWS,
    }


@pytest.mark.parametrize("part", range(SOME_STEPS))
def test_killed_before_some_steps(part: int, crashing, tmp_path, redis_url, undisturbed) -> None:
    first, last = part * undisturbed.steps // SOME_STEPS, (part + 1) * undisturbed.steps // SOME_STEPS
    survive(crashing, tmp_path, redis_url, undisturbed, random.Random(part).randrange(first, last))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_before_every_step(tmp_path, redis_url, undisturbed) -> None:
    side_by_side(
        lambda crashing, step: survive(crashing, tmp_path / str(step), redis_url, undisturbed, step),
        range(undisturbed.steps),
    )


def killed_at_random(
    crashing: Crasher, folder: Path, redis_url: str, undisturbed: Undisturbed, kills: int, seed: int
) -> None:
    """Be killed again and again, after part of the time that a whole run takes, and end at last."""
    rng, namespace, shards = random.Random(seed), f"random{undisturbed.shards}-{seed}", undisturbed.shards
    world.append(redis_url, namespace, world.messages())
    for _ in range(kills):
        seconds = rng.uniform(0.1, 0.9) * undisturbed.seconds
        crashing.run(folder, redis_url, namespace, seconds=seconds, shards=shards)
        bury(redis_url, namespace)
    assert crashing.run(folder, redis_url, namespace, shards=shards)["how"] == ENDED
    undisturbed.check_equal(folder, redis_url, namespace)


def test_killed_at_random_times(crashing, tmp_path, redis_url, undisturbed) -> None:
    killed_at_random(crashing, tmp_path, redis_url, undisturbed, kills=4, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_many_random_times(tmp_path, redis_url, undisturbed) -> None:
    side_by_side(
        lambda crashing, seed: killed_at_random(
            crashing, tmp_path / str(seed), redis_url, undisturbed, kills=4, seed=seed
        ),
        range(1, 11),
    )
