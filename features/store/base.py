"""The online store's interface: one conformance suite holds for all who implement it.

Of users it holds histories, attributes and the states of their features, which are finished at the moment of a request;
of items their facts and their features.

Histories hold item ids, never semantic IDs: an item keeps its id when a new generation of semantic IDs is published.
Legend: `B` users asked for, `H` history entries of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.columns import Columns


class StoreUnavailableError(ConnectionError):
    """The store cannot be reached or does not answer in time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histories:
    """Event histories, jagged by user.

    ::

        user_ids  [ ann          , bob , eve ]
        item_ids  [ i7  i3  i3   , i5  |     ]    oldest first
        offsets   [ 0            , 3   , 4, 4 ]   user b owns entries offsets[b]:offsets[b + 1]

    Attributes:
        user_ids: `B` ids.
        offsets: `B + 1` offsets, int64.
        item_ids: `H` item ids (an Arrow string array).
        events: `H` codes of `features.schemas.EVENT_KINDS`, int8.
        times: `H` times, int64 milliseconds since 1970 UTC.
    """

    user_ids: Sequence[str]
    offsets: npt.NDArray[np.int64]
    item_ids: pa.StringArray
    events: npt.NDArray[np.int8]
    times: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        entries = {len(self.item_ids), len(self.events), len(self.times), int(self.offsets[-1])}
        if len(self.offsets) != len(self.user_ids) + 1 or len(entries) != 1:
            raise ValueError(
                f"histories: expected {len(self.user_ids) + 1} offsets and equally many item ids, events and times, "
                f"got {len(self.offsets)} offsets up to {self.offsets[-1]} and {len(self.item_ids)}, "
                f"{len(self.events)}, {len(self.times)} entries"
            )

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownUsers:
    """What is known of `B` users.

    Attributes:
        histories: Their newest events.
        states: Packed states of their features (`features.states`), None for a user without events.
        attributes: What `users` says of them, None for an unknown user.
    """

    histories: Histories
    states: Sequence[bytes | None]
    attributes: Sequence[Mapping[str, str] | None]

    @classmethod
    def strangers(cls, user_ids: Sequence[str]) -> KnownUsers:
        """Return users of whom nothing is known."""
        nobody = [None] * len(user_ids)
        histories = Histories(
            user_ids=user_ids,
            offsets=np.zeros(len(user_ids) + 1, dtype=np.int64),
            item_ids=pa.array([], pa.string()),
            events=np.zeros(0, dtype=np.int8),
            times=np.zeros(0, dtype=np.int64),
        )
        return cls(histories=histories, states=nobody, attributes=nobody)

    def __len__(self) -> int:
        return len(self.histories)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ItemFacts:
    """What a request's filters and a result page need to know of an item.

    Attributes:
        item_id: The item.
        title: Its title.
        brand: Its brand, if known.
        category: Path of categories, root first, possibly empty.
        price: Its price, if known.
        available_from: Not shown before this time (milliseconds since 1970 UTC), if known.
        available: False only where the items table says so.
    """

    item_id: str
    title: str
    brand: str | None = None
    category: tuple[str, ...] = ()
    price: float | None = None
    available_from: int | None = None
    available: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freshness:
    """How current the store is.

    Attributes:
        generation: Hexadecimal name of the back-filled inputs.
        newest_event_time: Time of the newest event in any history (milliseconds since 1970 UTC), None without events.
        users: Users with a history.
        items: Items with facts.
    """

    generation: str
    newest_event_time: int | None
    users: int
    items: int


class OnlineStore(Protocol):
    """What is known by user and by item, each read in one round trip.

    Every method raises `StoreUnavailableError` when the store does not answer. A blob of another schema version or with
    a wrong checksum counts as missing, and in `corrupted`.
    """

    corrupted: int

    def write_histories(self, histories: Histories, *, generation: int) -> None:
        """Replace the histories of these users; the newest `history_length` events of each are kept."""
        ...

    def histories(self, user_ids: Sequence[str], limit: int) -> Histories:
        """Return the newest `limit` events of each user; an unknown user has none."""
        ...

    def write_states(self, user_ids: Sequence[str], states: Sequence[bytes], *, generation: int) -> None:
        """Replace the packed states of these users' features."""
        ...

    def write_attributes(
        self, user_ids: Sequence[str], attributes: Sequence[Mapping[str, str]], *, generation: int
    ) -> None:
        """Replace the attributes of these users."""
        ...

    def users(self, user_ids: Sequence[str], limit: int) -> KnownUsers:
        """Return the newest `limit` events, the states and the attributes of each user."""
        ...

    def write_items(self, facts: Sequence[ItemFacts], *, generation: int) -> None:
        """Replace the facts of these items."""
        ...

    def items(self, item_ids: Sequence[str]) -> list[ItemFacts | None]:
        """Return the facts of each item, None for an unknown one."""
        ...

    def write_item_features(self, item_ids: Sequence[str], columns: Columns, *, generation: int) -> None:
        """Replace the features of these items: one row of `columns` each, named as in `features.definitions`."""
        ...

    def item_features(self, item_ids: Sequence[str]) -> Columns | None:
        """Return the features of each item, the defaults for an unknown one; None where all are unknown."""
        ...

    def write_freshness(self, freshness: Freshness) -> None:
        """Say what the store holds, after everything has been written."""
        ...

    def freshness(self) -> Freshness | None:
        """Return what the last back-fill said, None before the first."""
        ...

    def ping(self) -> None:
        """Return if the store answers."""
        ...

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
