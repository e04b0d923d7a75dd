"""Reads of 5 feature groups of 20 numbers for 1, 10 and 500 entities: packed blobs against pipelined HMGET.

The peer keeps an entity's numbers as fields of one hash and asks for each group with an HMGET, all of them in one
pipeline, as Feast lays features out in Redis; both decode into one array, which is asserted to be the same first. One
embedded server, one client, both forms in turn. What a page request reads of its user (a history of 100 events, the
state of all features, attributes) is measured beside it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.definitions import USER, features_of, memories_of, state_layout
from features.states import ENTITY, pack_states
from features.store import base
from features.store.base import Histories, NewBlob, Version
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace

NAME = "store_read_p50_ms"
ENTITIES, NUMBERS, EVENTS = 1000, 20, 100
GROUPS = (base.HISTORY, base.USER, base.SEEN, base.ITEM, base.ITEM_STATE)
KEYS = {10: 600, 1: 600, 500: 40}
"""Reads of so many entities, and how often."""
PEER = "pipelined HMGET (Feast documents 7.27 ms)"
"""For 5 feature views in Redis, on a machine of theirs."""

Floats = npt.NDArray[np.float32]


def run(full: bool) -> list[dict[str, Any]]:
    """Measure the reads of 1, 10 and 500 entities, p50 and p99."""
    values = np.random.default_rng(1).normal(size=(ENTITIES, len(GROUPS), NUMBERS)).astype(np.float32)
    names = [f"entity{number:06d}" for number in range(ENTITIES)]
    with tempfile.TemporaryDirectory() as folder, open_store(StoreConfig(), Workspace(Path(folder) / "w")) as store:
        _fill(store, names, values)
        results = [result for keys, rounds in KEYS.items() for result in _groups(store, names, values, keys, rounds)]
        _fill_users(store, names)
        return [*results, *(_users(store, names, keys, rounds) for keys, rounds in KEYS.items())]


def _fill(store: RedisStore, names: list[str], values: npt.NDArray[np.float32]) -> None:
    blobs = (
        NewBlob(group, name, Version(1, 1), 1, values[row, column].tobytes())
        for row, name in enumerate(names)
        for column, group in enumerate(GROUPS)
    )
    assert store.write_blobs(blobs) == values.shape[0] * len(GROUPS)
    pipeline = store.client.pipeline(transaction=False)
    for name, groups in zip(names, values, strict=True):
        fields = {field: groups[at].tobytes() for field, at in zip(_fields(), np.ndindex(groups.shape), strict=True)}
        pipeline.hset(f"hash:{name}", mapping=fields)
    pipeline.execute()


def _fields() -> list[str]:
    return [f"{group}:{number}" for group in GROUPS for number in range(NUMBERS)]


def _groups(store: RedisStore, names: list[str], values: Floats, keys: int, rounds: int) -> list[dict[str, Any]]:
    asked = np.random.default_rng(keys).integers(0, ENTITIES, (rounds + 1, keys))
    fields = _fields()
    by_group = [fields[start : start + NUMBERS] for start in range(0, len(fields), NUMBERS)]

    def ours(round: int) -> Floats:
        wanted = [(group, names[row]) for row in asked[round] for group in GROUPS]
        payloads = [held.payload for held in store.read_blobs(wanted) if held is not None]
        return np.frombuffer(b"".join(payloads), np.float32).reshape(keys, len(GROUPS), NUMBERS)

    def peer(round: int) -> Floats:
        pipeline = store.client.pipeline(transaction=False)
        for row in asked[round]:
            for group in by_group:
                pipeline.hmget(f"hash:{names[row]}", group)
        found = b"".join(value for values in pipeline.execute() for value in values)
        return np.frombuffer(found, np.float32).reshape(keys, len(GROUPS), NUMBERS)

    np.testing.assert_array_equal(ours(0), values[asked[0]])
    np.testing.assert_array_equal(peer(0), values[asked[0]])
    mine, theirs = _timed([ours, peer], rounds)
    name = NAME if keys == 10 else f"{NAME}[{keys}]"
    return [
        _result(name.replace("p50", f"p{percent}"), np.percentile(mine, percent), np.percentile(theirs, percent))
        for percent in (50, 99)
    ]


def _fill_users(store: RedisStore, names: list[str]) -> None:
    entries = ENTITIES * EVENTS
    histories = Histories(
        user_ids=names,
        offsets=np.arange(0, entries + 1, EVENTS),
        item_ids=pa.array([f"item{number % 100_000:08d}" for number in range(entries)]),
        events=np.ones(entries, np.int8),
        times=np.arange(entries),
    )
    rows = np.repeat(np.arange(ENTITIES), 5)
    states = [
        {ENTITY: rows, **{name: np.arange(len(rows)) for name in memory.columns}}
        for memory in memories_of(features_of(USER))
    ]
    version = Version(1, 2)
    store.write_histories(histories, version=version)
    store.write_states(names, pack_states(states, ENTITIES, state_layout()).to_pylist(), version=version)
    store.write_attributes(names, [{"plan": "gold", "age": "30"}] * ENTITIES, version=version)


def _users(store: RedisStore, names: list[str], keys: int, rounds: int) -> dict[str, Any]:
    asked = np.random.default_rng(keys).integers(0, ENTITIES, (rounds + 1, keys))
    known = store.users([names[row] for row in asked[0]], EVENTS)
    assert len(known.histories.item_ids) == keys * EVENTS
    assert None not in known.states
    (mine,) = _timed([lambda round: store.users([names[row] for row in asked[round]], EVENTS)], rounds)
    return _result(f"{NAME}[{keys} users]", np.percentile(mine, 50), None)


def _timed(works: list[Callable[[int], Any]], rounds: int) -> list[list[float]]:
    """Return the milliseconds of each work in each round."""
    taken: list[list[float]] = [[] for _ in works]
    for round in range(1, rounds + 1):
        for place, work in enumerate(works):
            started = time.perf_counter()
            work(round)
            taken[place].append(1000 * (time.perf_counter() - started))
    return taken


def _result(name: str, ours: float, peer: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "ours": float(ours),
        "peer": None if peer is None else float(peer),
        "peer_name": None if peer is None else PEER,
        "unit": "ms",
        "ratio": None if peer is None else float(peer / ours),
        "better": "lower",
    }
