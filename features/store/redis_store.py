"""The online store on any Redis: one packed blob per key, one MGET per read, pipelined writes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.columns import Columns
from features.definitions import state_layout
from features.secrets import without_passwords
from features.store.base import Freshness, Histories, ItemFacts, KnownUsers, StoreUnavailableError
from features.store.codec import (
    EMPTY_HISTORY,
    CorruptBlobError,
    decode_attributes,
    decode_history,
    decode_item,
    decode_state,
    encode_attributes,
    encode_histories,
    encode_item,
    encode_state,
    join_histories,
)
from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.feature_codec import decode_features, encode_features
from features.workspace import Workspace

WRITE_CHUNK = 1000
"""Keys written per round trip: large enough to hide the round trip, small enough to keep other clients' reads short."""
READ_CHUNK = 5000
"""Keys per MGET; Redis answers nobody else meanwhile (1000 keys of 512 bytes take about a millisecond)."""

HISTORY, STATE, USER, ITEM, ITEM_FEATURES = "history", "state", "user", "item", "item_features"
"""Views: the part of a key that says what of an entity it holds."""
Decoded = TypeVar("Decoded")

_SECONDS_PER_DAY = 86_400


class RedisStore:
    """An `OnlineStore` (see `features.store.base`) on one Redis database.

    Keys are `{namespace}:v1:{view}:{id}`, views of users `history`, `state` and `user` (attributes), views of items
    `item` (facts) and `item_features`; and `{namespace}:v1:freshness`.

    Args:
        url: `redis://`, `rediss://` or `unix://` URL.
        config: Namespace, expiry, history length and timeout.
        on_close: Called once by `close`, after the last connection is gone.

    Attributes:
        url: What `url` was; other processes may open the same store with it.
        namespace: First part of every key.
        corrupted: Damaged or foreign blobs met so far; each was treated as missing.
    """

    def __init__(self, url: str, config: StoreConfig, on_close: Callable[[], None] | None = None) -> None:
        self.url = url
        self.corrupted = 0
        self.namespace = config.namespace
        self._length = config.history_length
        self._on_close = on_close
        self._prefix = f"{config.namespace}:v1"
        self._ttl = max(1, round(config.ttl_days * _SECONDS_PER_DAY))
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=config.timeout_s,
            socket_connect_timeout=config.timeout_s,
            # a connection that the server closed is opened again once; more would only delay the fallback page
            retry=Retry(NoBackoff(), 1),
        )

    def write_histories(self, histories: Histories, *, generation: int) -> None:
        """Replace the histories of these users; the newest `history_length` events of each are kept."""
        blobs = encode_histories(histories, length=self._length, generation=generation)
        self._write(HISTORY, zip(histories.user_ids, blobs, strict=True))

    def histories(self, user_ids: Sequence[str], limit: int) -> Histories:
        """Return the newest `limit` events of each user; an unknown user has none."""
        return self._histories(user_ids, self._read([(HISTORY, user) for user in user_ids]), limit)

    def write_states(self, user_ids: Sequence[str], states: Sequence[bytes], *, generation: int) -> None:
        """Replace the packed states of these users' features."""
        blobs = (encode_state(state, generation=generation) for state in states)
        self._write(STATE, zip(user_ids, blobs, strict=True))

    def write_attributes(
        self, user_ids: Sequence[str], attributes: Sequence[Mapping[str, str]], *, generation: int
    ) -> None:
        """Replace the attributes of these users."""
        blobs = (encode_attributes(row, generation=generation) for row in attributes)
        self._write(USER, zip(user_ids, blobs, strict=True))

    def users(self, user_ids: Sequence[str], limit: int) -> KnownUsers:
        """Return the newest `limit` events, the states and the attributes of each user."""
        blobs = self._read([(view, user) for view in (HISTORY, STATE, USER) for user in user_ids])
        size, layout = len(user_ids), state_layout()
        return KnownUsers(
            histories=self._histories(user_ids, blobs[:size], limit),
            states=[self._decoded(lambda blob: decode_state(blob, layout), blob) for blob in blobs[size : 2 * size]],
            attributes=[self._decoded(decode_attributes, blob) for blob in blobs[2 * size :]],
        )

    def write_items(self, facts: Sequence[ItemFacts], *, generation: int) -> None:
        """Replace the facts of these items."""
        self._write(ITEM, ((item.item_id, encode_item(item, generation=generation)) for item in facts))

    def items(self, item_ids: Sequence[str]) -> list[ItemFacts | None]:
        """Return the facts of each item, None for an unknown one."""
        return [self._decoded(decode_item, blob) for blob in self._read([(ITEM, item) for item in item_ids])]

    def write_item_features(self, item_ids: Sequence[str], columns: Columns, *, generation: int) -> None:
        """Replace the features of these items: one row of `columns` each, named as in `features.definitions`."""
        self._write(ITEM_FEATURES, zip(item_ids, encode_features(columns, generation=generation), strict=True))

    def item_features(self, item_ids: Sequence[str]) -> Columns | None:
        """Return the features of each item, the defaults for an unknown one; None where all are unknown."""
        columns, corrupted = decode_features(self._read([(ITEM_FEATURES, item) for item in item_ids]))
        self.corrupted += corrupted
        return columns

    def write_freshness(self, freshness: Freshness) -> None:
        """Say what the store holds, after everything has been written."""
        with self._answering():
            self._client.set(f"{self._prefix}:freshness", json.dumps(dataclasses.asdict(freshness)), ex=self._ttl)

    def freshness(self) -> Freshness | None:
        """Return what the last back-fill said, None before the first."""
        with self._answering():
            text = self._client.get(f"{self._prefix}:freshness")
        return None if text is None else Freshness(**json.loads(text))

    def ping(self) -> None:
        """Return if the store answers."""
        with self._answering():
            self._client.ping()

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        self._client.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _histories(self, user_ids: Sequence[str], blobs: Sequence[bytes | None], limit: int) -> Histories:
        parts = [self._decoded(lambda blob: decode_history(blob, limit), blob) or EMPTY_HISTORY for blob in blobs]
        return join_histories(user_ids, parts)

    def _decoded(self, decode: Callable[[bytes], Decoded], blob: bytes | None) -> Decoded | None:
        """Decode a blob if there is one; a corrupt one counts as missing."""
        try:
            return None if blob is None else decode(blob)
        except CorruptBlobError:
            self.corrupted += 1
            return None

    def _read(self, wanted: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Return the blob of each (view, entity), None where there is none."""
        blobs: list[bytes | None] = []
        for start in range(0, len(wanted), READ_CHUNK):
            keys = [f"{self._prefix}:{view}:{entity}" for view, entity in wanted[start : start + READ_CHUNK]]
            with self._answering():
                blobs += self._client.mget(keys)
        return blobs

    def _write(self, view: str, blobs: Iterable[tuple[str, bytes]]) -> None:
        remaining = iter(blobs)
        while chunk := list(itertools.islice(remaining, WRITE_CHUNK)):
            pipeline = self._client.pipeline(transaction=False)
            for entity, blob in chunk:
                pipeline.set(f"{self._prefix}:{view}:{entity}", blob, ex=self._ttl)
            with self._answering():
                pipeline.execute()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise StoreUnavailableError(
                f"the online store at {without_passwords(self.url)} does not answer: {error}; start that Redis, "
                "correct store.url, or leave store.url out to use the embedded one"
            ) from error


def open_store(config: StoreConfig, workspace: Workspace) -> RedisStore:
    """Open the configured Redis, or this workspace's embedded one until `close`.

    Raises:
        StoreUnavailableError: It does not answer.
        ValueError: No URL is given and the workspace is not on a local disk.
    """
    if config.url is not None:
        store = RedisStore(config.url, config)
    else:
        embedded = EmbeddedRedis(workspace.local_path("store"))
        store = RedisStore(embedded.url, config, on_close=embedded.close)
    try:
        store.ping()
    except StoreUnavailableError:
        store.close()
        raise
    return store
