"""The online store on any Redis: what the views of `features.store.base` hold, as packed blobs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from features.columns import Columns
from features.store.base import (
    HISTORY,
    ITEM,
    ITEM_FEATURES,
    STATE,
    USER,
    Histories,
    ItemFacts,
    KnownUsers,
    NewBlob,
    StoreUnavailableError,
    Version,
)
from features.store.blob_store import BlobStore
from features.store.codec import attributes_payload, history_payload, item_payload, split_histories
from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.feature_codec import features_payloads
from features.store.reading import ReadPlan
from features.workspace import Workspace


class RedisStore(BlobStore):
    """An `OnlineStore` on a Redis server, a master behind Sentinels, or a Redis Cluster.

    Args:
        url: See `StoreConfig.url`.
        config: Namespace, expiry, history length and timeout.
        on_close: Called once by `close`, after the last connection is gone.

    Raises:
        StoreUnavailableError: A cluster that does not answer.
    """

    def __init__(self, url: str, config: StoreConfig, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(url, config, on_close)
        self._length = config.history_length

    def read(self, plan: ReadPlan) -> None:
        """Read what a plan wants in one round trip."""
        plan.found = self._found(plan.wanted)

    def write_histories(self, histories: Histories, *, version: Version | None = None) -> None:
        """Write the histories of these users; the newest `history_length` events of each are kept."""
        parts = list(split_histories(histories, length=self._length))
        times = (int(part.times[-1]) if len(part.times) else 0 for part in parts)
        self._write(HISTORY, histories.user_ids, map(history_payload, parts), times, version)

    def histories(self, user_ids: Sequence[str], limit: int) -> Histories:
        """Return the newest `limit` events of each user; an unknown user has none."""
        plan = ReadPlan()
        answer = plan.histories(user_ids, limit)
        self.read(plan)
        return answer.get()

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
        plan = ReadPlan()
        answer = plan.users(user_ids, limit)
        self.read(plan)
        return answer.get()

    def write_items(self, facts: Sequence[ItemFacts], *, version: Version | None = None) -> None:
        """Write the facts of these items."""
        self._write(ITEM, [item.item_id for item in facts], map(item_payload, facts), None, version)

    def items(self, item_ids: Sequence[str]) -> list[ItemFacts | None]:
        """Return the facts of each item, None for an unknown one."""
        plan = ReadPlan()
        answer = plan.items(item_ids)
        self.read(plan)
        return answer.get()

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
        plan = ReadPlan()
        answer = plan.item_features(item_ids)
        self.read(plan)
        return answer.get()

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
