"""A read plan: everything that one request needs of the store, asked for in parts and read in one round trip.

Legend: `B` users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from features.columns import Columns
from features.store.base import (
    HISTORY,
    ITEM,
    ITEM_FEATURES,
    STATE,
    USER,
    Held,
    Histories,
    ItemFacts,
    KnownUsers,
    ViewFreshness,
)
from features.store.codec import (
    EMPTY_HISTORY,
    join_histories,
    read_attributes_payload,
    read_history_payload,
    read_item_payload,
)
from features.store.feature_codec import read_features_payloads

Part = TypeVar("Part")
Found = Sequence[Held | None]


class Later(Generic[Part]):
    """One part of what a plan reads."""

    def __init__(self, plan: ReadPlan, size: int, decode: Callable[[Found], Part]) -> None:
        self._plan, self._decode = plan, decode
        self._part = slice(len(plan.wanted) - size, len(plan.wanted))

    def get(self) -> Part:
        """Return the part; the plan must have been read."""
        return self._decode(self._plan.found[self._part])


class ReadPlan:
    """What is to be read; its methods return where the answer will be.

    Attributes:
        wanted: (view, entity) of all parts so far.
        found: What is held for each of them, once it has been read.

    Example:
        >>> plan = ReadPlan()
        >>> users, items = plan.users(["ann", "bob"], 100), plan.items(["i1"])
        >>> plan.wanted[-2:]
        [('user', 'bob'), ('item', 'i1')]
    """

    def __init__(self) -> None:
        self.wanted: list[tuple[str, str]] = []
        self.found: Found = []

    def users(self, user_ids: Sequence[str], limit: int) -> Later[KnownUsers]:
        """Add the newest `limit` events, the states and the attributes of each user."""
        return self._add((HISTORY, STATE, USER), user_ids, lambda found: _users(user_ids, found, limit))

    def histories(self, user_ids: Sequence[str], limit: int) -> Later[Histories]:
        """Add the newest `limit` events of each user."""
        return self._add((HISTORY,), user_ids, lambda found: _histories(user_ids, found, limit))

    def items(self, item_ids: Sequence[str]) -> Later[list[ItemFacts | None]]:
        """Add the facts of each item."""
        return self._add((ITEM,), item_ids, _items)

    def item_features(self, item_ids: Sequence[str]) -> Later[Columns | None]:
        """Add the features of each item."""
        return self._add((ITEM_FEATURES,), item_ids, _item_features)

    def _add(self, views: Sequence[str], entities: Sequence[str], decode: Callable[[Found], Part]) -> Later[Part]:
        added = [(view, entity) for view in views for entity in entities]
        self.wanted += added
        return Later(self, len(added), decode)


def _users(user_ids: Sequence[str], found: Found, limit: int) -> KnownUsers:
    size = len(user_ids)
    histories, states, attributes = found[:size], found[size : 2 * size], found[2 * size :]
    return KnownUsers(
        histories=_histories(user_ids, histories, limit),
        states=[one and one.payload for one in states],
        attributes=[None if one is None else read_attributes_payload(one.payload) for one in attributes],
        freshness={HISTORY: _freshness(histories), STATE: _freshness(states), USER: _freshness(attributes)},
    )


def _histories(user_ids: Sequence[str], found: Found, limit: int) -> Histories:
    parts = [EMPTY_HISTORY if one is None else read_history_payload(one.payload, limit) for one in found]
    return join_histories(user_ids, parts)


def _items(found: Found) -> list[ItemFacts | None]:
    return [None if one is None else read_item_payload(one.payload) for one in found]


def _item_features(found: Found) -> Columns | None:
    return read_features_payloads([one and one.payload for one in found])


def _freshness(found: Found) -> ViewFreshness:
    return ViewFreshness(
        event_times=np.array([0 if one is None else one.event_time for one in found], np.int64),
        positions=np.array([0 if one is None else one.version.position for one in found], np.uint64),
        generations=np.array([0 if one is None else one.version.generation for one in found], np.int64),
    )
