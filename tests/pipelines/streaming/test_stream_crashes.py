"""Killed between any two steps, and at random times: the log holds every row once, the store what it should hold."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import stream_world as world
from crashes import ENDED, KILLED, Crasher, crasher

from features.store.backfill import STREAM
from features.store.redis_store import RedisStore

pytestmark = pytest.mark.integration
SOME_STEPS = 8


@pytest.fixture(scope="module")
def crashing() -> Iterator[Crasher]:
    with crasher() as opened:
        yield opened


@pytest.fixture(scope="module")
def undisturbed(crashing: Crasher, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, float]:
    """The folder of a run that nobody killed, its steps and its seconds; its namespace is `undisturbed`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    world.append(redis_url, "undisturbed", world.messages())
    ended = crashing.run(folder, redis_url, "undisturbed")
    assert ended["how"] == ENDED
    assert ended["steps"] > 100
    return folder, ended["steps"], ended["seconds"]


def bury(redis_url: str, namespace: str) -> None:
    """Free the lease of a killed process: its test need not wait until it runs out."""
    with RedisStore(redis_url, world.store_config(redis_url, namespace)) as store:
        store.client.delete(store.keys.lease(STREAM))


def check_equal(folder: Path, redis_url: str, namespace: str, expected: Path) -> None:
    assert world.logged(folder) == world.logged(expected)
    assert world.counts(folder) == world.counts(expected)
    assert world.held(redis_url, namespace) == world.held(redis_url, "undisturbed")


def survive(crashing: Crasher, folder: Path, redis_url: str, undisturbed: tuple[Path, int, float], step: int) -> None:
    """Be killed before a step, and go on."""
    namespace = f"step{step}"
    world.append(redis_url, namespace, world.messages())
    killed = crashing.run(folder, redis_url, namespace, step=step)["how"] == KILLED
    # how many steps there are varies by a few: a compaction may be ready one range later
    assert killed or step > 0.9 * undisturbed[1]
    bury(redis_url, namespace)
    assert crashing.run(folder, redis_url, namespace)["how"] == ENDED
    check_equal(folder, redis_url, namespace, undisturbed[0])


def test_the_undisturbed_run_wrote_everything(undisturbed, redis_url) -> None:
    assert world.counts(undisturbed[0])["events.logged"] > 50
    held = world.held(redis_url, "undisturbed")
    assert {view for (view, _), payload in held.items() if payload is not None} == {
        *world.USER_VIEWS,
        *world.ITEM_VIEWS,
    }


@pytest.mark.parametrize("part", range(SOME_STEPS))
def test_killed_before_some_steps(part: int, crashing, tmp_path, redis_url, undisturbed) -> None:
    first, last = part * undisturbed[1] // SOME_STEPS, (part + 1) * undisturbed[1] // SOME_STEPS
    survive(crashing, tmp_path, redis_url, undisturbed, random.Random(part).randrange(first, last))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_before_every_step(crashing, tmp_path, redis_url, undisturbed) -> None:
    for step in range(undisturbed[1]):
        survive(crashing, tmp_path / str(step), redis_url, undisturbed, step)


def killed_at_random(crashing: Crasher, folder: Path, redis_url: str, undisturbed, kills: int, seed: int) -> None:
    """Be killed again and again, after part of the time that a whole run takes, and end at last."""
    rng, namespace = random.Random(seed), f"random{seed}"
    world.append(redis_url, namespace, world.messages())
    for _ in range(kills):
        crashing.run(folder, redis_url, namespace, seconds=rng.uniform(0.1, 0.9) * undisturbed[2])
        bury(redis_url, namespace)
    assert crashing.run(folder, redis_url, namespace)["how"] == ENDED
    check_equal(folder, redis_url, namespace, undisturbed[0])


def test_killed_at_random_times(crashing, tmp_path, redis_url, undisturbed) -> None:
    killed_at_random(crashing, tmp_path, redis_url, undisturbed, kills=4, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_many_random_times(crashing, tmp_path, redis_url, undisturbed) -> None:
    for seed in range(1, 11):
        killed_at_random(crashing, tmp_path / str(seed), redis_url, undisturbed, kills=4, seed=seed)
