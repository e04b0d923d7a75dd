"""The online store on any Redis: one packed blob per key, one round trip per read, guarded writes in chunks."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import redis

from features.columns import Columns
from features.secrets import without_passwords
from features.store.base import (
    HISTORY,
    ITEM,
    ITEM_FEATURES,
    STATE,
    USER,
    Freshness,
    Held,
    Histories,
    ItemFacts,
    KnownUsers,
    NewBlob,
    StoreUnavailableError,
    Version,
    ViewFreshness,
)
from features.store.codec import (
    EMPTY_HISTORY,
    CorruptBlobError,
    Unpacked,
    attributes_payload,
    history_payload,
    item_payload,
    join_histories,
    layouts,
    pack,
    read_attributes_payload,
    read_history_payload,
    read_item_payload,
    split_histories,
    unpack,
    written_schema,
)
from features.store.config import StoreConfig
from features.store.connections import Client, connect, server_of
from features.store.embedded import EmbeddedRedis
from features.store.feature_codec import features_payloads, read_features_payloads
from features.store.generations import Generations
from features.store.keys import Keys
from features.store.leases import RedisLease
from features.workspace import Workspace

WRITE_CHUNK = 500
"""Keys written per round trip: large enough to hide the round trip, small enough to keep other clients' reads short."""
READ_CHUNK = 5000
"""Keys per MGET; Redis answers nobody else meanwhile (1000 keys of 512 bytes take about a millisecond)."""

_SECONDS_PER_DAY = 86_400


class RedisStore:
    """An `OnlineStore` (see `features.store.base`) on a Redis server, a master behind Sentinels, or a Redis Cluster.

    `features.store.keys` names its keys.

    Args:
        url: See `StoreConfig.url`.
        config: Namespace, expiry, history length and timeout.
        on_close: Called once by `close`, after the last connection is gone.

    Raises:
        StoreUnavailableError: A cluster that does not answer.

    Attributes:
        url: What `url` was; other processes may open the same store with it.
        namespace: First part of every key.
        keys: Names of the keys.
        corrupted: Damaged or foreign blobs met so far; each was treated as missing.
    """

    def __init__(self, url: str, config: StoreConfig, on_close: Callable[[], None] | None = None) -> None:
        self.url = url
        self.corrupted = 0
        self.namespace = config.namespace
        self.keys = Keys(config.namespace)
        self._length = config.history_length
        self._on_close = on_close
        self._ttl = max(1, round(config.ttl_days * _SECONDS_PER_DAY))
        self._layouts = layouts()
        with self._answering():
            self._server = server_of(connect(url, config.timeout_s))
        self._generations = Generations(self._server, self.keys)

    @property
    def client(self) -> Client:
        """The Redis client, for keys that are not the store's."""
        return self._server.client

    def read_blobs(self, wanted: Sequence[tuple[str, str]], *, generation: int | None = None) -> list[Held | None]:
        """Return what is held for each (view, entity)."""
        found = self._unpacked(wanted, generation)
        return [one and Held(one.version, one.event_time, bytes(one.payload)) for one in found]

    def write_blobs(self, blobs: Iterable[NewBlob]) -> int:
        """Write each blob unless its key holds one of a later version; return how many were written."""
        written = 0
        packed = (
            (
                self.keys.blob(blob.version.generation, blob.view, blob.entity),
                pack(written_schema(blob.view, blob.payload), blob.version, blob.event_time, blob.payload),
            )
            for blob in blobs
        )
        while chunk := list(itertools.islice(packed, WRITE_CHUNK)):
            with self._answering():
                written += self._server.replace(chunk, self._ttl)
        return written

    def write_histories(self, histories: Histories, *, version: Version | None = None) -> None:
        """Write the histories of these users; the newest `history_length` events of each are kept."""
        parts = list(split_histories(histories, length=self._length))
        times = (int(part.times[-1]) if len(part.times) else 0 for part in parts)
        self._write(HISTORY, histories.user_ids, map(history_payload, parts), times, version)

    def histories(self, user_ids: Sequence[str], limit: int) -> Histories:
        """Return the newest `limit` events of each user; an unknown user has none."""
        return _histories(user_ids, self._unpacked([(HISTORY, user) for user in user_ids]), limit)

    def write_states(
        self,
        user_ids: Sequence[str],
        states: Sequence[bytes],
        *,
        event_times: Sequence[int] | None = None,
        version: Version | None = None,
    ) -> None:
        """Write the packed states of these users' features, and the time of each user's newest event."""
        self._write(STATE, user_ids, states, event_times, version)

    def write_attributes(
        self, user_ids: Sequence[str], attributes: Sequence[Mapping[str, str]], *, version: Version | None = None
    ) -> None:
        """Write the attributes of these users."""
        self._write(USER, user_ids, map(attributes_payload, attributes), None, version)

    def users(self, user_ids: Sequence[str], limit: int) -> KnownUsers:
        """Return the newest `limit` events, the states and the attributes of each user."""
        size = len(user_ids)
        found = self._unpacked([(view, user) for view in (HISTORY, STATE, USER) for user in user_ids])
        histories, states, attributes = found[:size], found[size : 2 * size], found[2 * size :]
        return KnownUsers(
            histories=_histories(user_ids, histories, limit),
            states=[one and bytes(one.payload) for one in states],
            attributes=[None if one is None else read_attributes_payload(one.payload) for one in attributes],
            freshness={HISTORY: _fresh(histories), STATE: _fresh(states), USER: _fresh(attributes)},
        )

    def write_items(self, facts: Sequence[ItemFacts], *, version: Version | None = None) -> None:
        """Write the facts of these items."""
        self._write(ITEM, [item.item_id for item in facts], map(item_payload, facts), None, version)

    def items(self, item_ids: Sequence[str]) -> list[ItemFacts | None]:
        """Return the facts of each item, None for an unknown one."""
        found = self._unpacked([(ITEM, item) for item in item_ids])
        return [None if one is None else read_item_payload(one.payload) for one in found]

    def write_item_features(
        self,
        item_ids: Sequence[str],
        columns: Columns,
        *,
        event_times: Sequence[int] | None = None,
        version: Version | None = None,
    ) -> None:
        """Write the features of these items: one row of `columns` each, named as in `features.definitions`."""
        self._write(ITEM_FEATURES, item_ids, features_payloads(columns), event_times, version)

    def item_features(self, item_ids: Sequence[str]) -> Columns | None:
        """Return the features of each item, the defaults for an unknown one; None where all are unknown."""
        found = self._unpacked([(ITEM_FEATURES, item) for item in item_ids])
        return read_features_payloads([one and one.payload for one in found])

    def generations(self) -> tuple[int, int | None]:
        """Return the generation that is read, and the one that is complete and waits to be read, if any."""
        with self._answering():
            return self._generations.current()

    def new_generation(self) -> int:
        """Return a number that no generation had before."""
        with self._answering():
            return self._generations.begin()

    def announce(self, generation: int) -> None:
        """Let this generation, complete by now, be the one that waits to be read."""
        with self._answering():
            self._generations.announce(generation)

    def flip(self, generation: int) -> bool:
        """Read the waiting generation from now on; False, and nothing changes, if it is another one by now."""
        with self._answering():
            return self._generations.flip(generation)

    def remove_old_generations(self) -> int:
        """Remove all entries but those of the active and the waiting generation; return how many there were."""
        with self._answering():
            return self._generations.remove_old()

    def writer_lease(self, name: str, seconds: float, *, wait_s: float = 0.0) -> RedisLease:
        """Become the only writer of this name."""
        with self._answering():
            return RedisLease(self.client, self.keys.lease(name), seconds, wait_s)

    def write_freshness(self, freshness: Freshness, *, generation: int | None = None) -> None:
        """Say what a generation (left out, the active one) holds, after everything has been written."""
        below = self.generations()[0] if generation is None else generation
        with self._answering():
            self.client.set(self.keys.freshness(below), json.dumps(dataclasses.asdict(freshness)), ex=self._ttl)

    def write_progress(self, generation: int, position: int, newest_event_time: int | None) -> None:
        """Say up to which position of the stream, and up to which event, everything is folded into a generation."""
        with self._answering():
            self.client.set(self.keys.progress(generation), json.dumps([position, newest_event_time]), ex=self._ttl)

    def progress(self, generation: int) -> int | None:
        """Return the position of the last `write_progress` of a generation, None where there was none."""
        with self._answering():
            (said,) = self._server.read([self.keys.progress(generation)])
        return None if said is None else int(json.loads(said)[0])

    def freshness(self, *, generation: int | None = None) -> Freshness | None:
        """Return what is said of a generation (left out, the active one), None of one without a finished back-fill."""
        below = self.generations()[0] if generation is None else generation
        with self._answering():
            said, progress = self._server.read([self.keys.freshness(below), self.keys.progress(below)])
        if said is None:
            return None
        freshness = Freshness(**json.loads(said))
        return freshness if progress is None else _advanced(freshness, *json.loads(progress))

    def ping(self) -> None:
        """Return if the store answers."""
        with self._answering():
            self._generations.current()

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        self.client.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _unpacked(self, wanted: Sequence[tuple[str, str]], generation: int | None = None) -> list[Unpacked | None]:
        """Return the blob of each (view, entity), None where there is none that can be read."""
        found: list[Unpacked | None] = []
        for start in range(0, len(wanted), READ_CHUNK):
            chunk = list(wanted[start : start + READ_CHUNK])
            with self._answering():
                if generation is None:
                    blobs = self._generations.read(chunk)
                else:
                    blobs = self._server.read(self.keys.blobs(generation, chunk))
            found += [self._checked(view, blob) for (view, _), blob in zip(chunk, blobs, strict=True)]
        return found

    def _checked(self, view: str, blob: bytes | None) -> Unpacked | None:
        """Read a blob's header if there is one; a corrupt one counts as missing."""
        try:
            return None if blob is None else unpack(blob, self._layouts[view])
        except CorruptBlobError:
            self.corrupted += 1
            return None

    def _write(
        self,
        view: str,
        entities: Sequence[str],
        payloads: Iterable[bytes],
        event_times: Iterable[int] | None,
        version: Version | None,
    ) -> None:
        written = Version(self.generations()[0]) if version is None else version
        times = itertools.repeat(0, len(entities)) if event_times is None else event_times
        rows = zip(entities, times, payloads, strict=True)
        self.write_blobs(NewBlob(view, entity, written, moment, payload) for entity, moment, payload in rows)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailableError(
                f"the online store at {without_passwords(self.url)} does not answer: {error}; start that Redis, "
                "correct store.url, or leave store.url out to use the embedded one"
            ) from error


def _histories(user_ids: Sequence[str], found: Sequence[Unpacked | None], limit: int) -> Histories:
    parts = [EMPTY_HISTORY if one is None else read_history_payload(one.payload, limit) for one in found]
    return join_histories(user_ids, parts)


def _fresh(found: Sequence[Unpacked | None]) -> ViewFreshness:
    return ViewFreshness(
        event_times=np.array([0 if one is None else one.event_time for one in found], np.int64),
        positions=np.array([0 if one is None else one.version.position for one in found], np.uint64),
    )


def _advanced(freshness: Freshness, position: int, newest_event_time: int | None) -> Freshness:
    """Return what holds after the stream has folded more in."""
    times = [moment for moment in (freshness.newest_event_time, newest_event_time) if moment is not None]
    return dataclasses.replace(
        freshness, position=max(freshness.position, position), newest_event_time=max(times, default=None)
    )


def open_store(config: StoreConfig, workspace: Workspace) -> RedisStore:
    """Open the configured Redis, or this workspace's embedded one until `close`.

    Raises:
        StoreUnavailableError: It does not answer.
        ValueError: No URL is given and the workspace is not on a local disk.
    """
    if config.url is not None:
        store = RedisStore(config.url, config)
    else:
        embedded = EmbeddedRedis(workspace.local_path("store"), config.durability)
        store = RedisStore(embedded.url, config, on_close=embedded.close)
    try:
        store.ping()
    except StoreUnavailableError:
        store.close()
        raise
    return store
