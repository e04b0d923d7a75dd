"""The online store's interface: one conformance suite holds for all who implement it.

Of users it holds histories, attributes and the states of their features, which are finished at the moment of a request;
of items their facts and their features; of both, what the stream needs to go on folding events (`seen`, `item_state`,
and what waits to become part of the latter).

Everything lies below a *generation*: a back-fill writes the next one beside the one that is read, and a pointer says
which that is. Every entry has a *version*, its generation and the position in the stream up to which events are folded
into it: an entry is never replaced by one of an earlier version.

Histories hold item ids, never semantic IDs: an item keeps its id when a new generation of semantic IDs is published.
Legend: `B` users asked for, `H` history entries of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.columns import Columns

if TYPE_CHECKING:
    from features.store.reading import ReadPlan

HISTORY, STATE, USER, SEEN, SEEN_PAGES = "history", "state", "user", "seen", "seen_pages"
"""Views of users: newest events, state of features, attributes, keys of the newest events and of the newest pages."""
USER_VIEWS = (HISTORY, STATE, USER, SEEN, SEEN_PAGES)
ITEM, ITEM_FEATURES, ITEM_STATE = "item", "item_features", "item_state"
"""Views of items: facts, features, state of features."""
ITEM_TURN, ITEM_ROWS = "item_turn", tuple(f"item_rows_{number}" for number in range(16))
"""Views of buckets of items: how much of what happened to them waits to be folded, and what it is, range by range."""
ITEM_CHANGES = "item_changes"
"""View of the catalogue: its version says when the stream last wrote facts of items."""

FIRST_GENERATION = 1
"""What is read, and what a stream writes, before the first back-fill."""


class StoreUnavailableError(ConnectionError):
    """The store cannot be reached or does not answer in time."""


class LeaseHeldError(ValueError):
    """Somebody else writes.

    Attributes:
        lives_here: Whether that is known to be another living process of this machine: it will not be free by itself.
    """

    def __init__(self, message: str, *, lives_here: bool = False) -> None:
        super().__init__(message)
        self.lives_here = lives_here


class LeaseLostError(RuntimeError):
    """The lease ran out before it was renewed: somebody else may be writing by now."""


class Version(NamedTuple):
    """Which of two blobs of one key is the later; versions compare as tuples.

    Attributes:
        generation: The back-fill that it belongs to.
        position: Position in the stream up to which events are folded in: `milliseconds << 16 | sequence` of a Redis
            stream ID, below 2**64; 0 for none.
    """

    generation: int
    position: int = 0


class Held(NamedTuple):
    """What the store holds for one (view, entity).

    Attributes:
        version: When it was written, in generations and positions.
        event_time: Time of the newest event in it (milliseconds since 1970 UTC), 0 for none.
        payload: Laid out as its view says.
    """

    version: Version
    event_time: int
    payload: bytes


class NewBlob(NamedTuple):
    """What is to be written for one (view, entity); see `Held`."""

    view: str
    entity: str
    version: Version
    event_time: int
    payload: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histories:
    """Event histories, jagged by user.

    ::

        user_ids  [ ann          , bob , eve ]
        item_ids  [ i7  i3  i3   , i5  |     ]    oldest first
        pages     [ p1  p1  p2   , p9  |     ]
        offsets   [ 0            , 3   , 4, 4 ]   user b owns entries offsets[b]:offsets[b + 1]

    Attributes:
        user_ids: `B` ids.
        offsets: `B + 1` offsets, int64.
        item_ids: `H` item ids (an Arrow string array).
        events: `H` codes of `features.schemas.EVENT_KINDS`, int8.
        times: `H` times, int64 milliseconds since 1970 UTC.
        pages: `H` hashes of the pages' request ids, uint64, 0 where there is none; left out, all are 0.
    """

    user_ids: Sequence[str]
    offsets: npt.NDArray[np.int64]
    item_ids: pa.StringArray
    events: npt.NDArray[np.int8]
    times: npt.NDArray[np.int64]
    pages: npt.NDArray[np.uint64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint64))

    def __post_init__(self) -> None:
        if not len(self.pages):
            object.__setattr__(self, "pages", np.zeros(len(self.item_ids), np.uint64))
        lengths = [len(self.item_ids), len(self.events), len(self.times), len(self.pages)]
        if len(self.offsets) != len(self.user_ids) + 1 or {*lengths} != {int(self.offsets[-1])}:
            raise ValueError(
                f"histories: expected {len(self.user_ids) + 1} offsets and equally many item ids, events, times and "
                f"pages, got {len(self.offsets)} offsets up to {self.offsets[-1]} and "
                f"{', '.join(map(str, lengths))} entries"
            )

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewFreshness:
    """How current what was read of one view is.

    Attributes:
        event_times: `B` times of the newest event in each entry, int64 milliseconds since 1970 UTC, 0 for none.
        positions: `B` positions of the stream up to which events are folded in, uint64, 0 for none.
        generations: `B` generations they belong to, int64, 0 where there is no entry.
    """

    event_times: npt.NDArray[np.int64]
    positions: npt.NDArray[np.uint64]
    generations: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownUsers:
    """What is known of `B` users.

    Attributes:
        histories: Their newest events.
        states: Packed states of their features (`features.states`), None for a user without events.
        attributes: What `users` says of them, None for an unknown user.
        freshness: By view (`HISTORY`, `STATE`, `USER`), how current it is; empty where the source does not say.
    """

    histories: Histories
    states: Sequence[bytes | None]
    attributes: Sequence[Mapping[str, str] | None]
    freshness: Mapping[str, ViewFreshness] = dataclasses.field(default_factory=dict)

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
        newest_event_time: Time of the newest event folded in (milliseconds since 1970 UTC), None without events.
        users: Users with a history when the back-fill ended.
        items: Items with facts when the back-fill ended.
        position: Position of the stream up to which all events are folded in, 0 for none.
    """

    generation: str
    newest_event_time: int | None
    users: int
    items: int
    position: int = 0


class WriterLease(Protocol):
    """The right to be the only writer of its name, renewed by itself until `release`."""

    def check(self) -> None:
        """Return if the lease is still held.

        Raises:
            LeaseLostError: It is not.
        """
        ...

    def release(self) -> None:
        """Give the lease back; repeating it is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class OnlineStore(Protocol):
    """What is known by user and by item, each read in one round trip.

    Every method raises `StoreUnavailableError` when the store does not answer. A blob of another schema version or with
    a wrong checksum counts as missing, and in `corrupted`; so does, uncounted, one whose time to live is over.

    Writing methods take the `version` of what they write; left out, it is of the active generation and of no position.
    None of them replaces an entry of a later version.
    """

    corrupted: int

    def read_blobs(self, wanted: Sequence[tuple[str, str]], *, generation: int | None = None) -> list[Held | None]:
        """Return what is held for each (view, entity).

        Args:
            wanted: Views and entities.
            generation: Where to look; the active one if left out.
        """
        ...

    def write_blobs(self, blobs: Iterable[NewBlob]) -> int:
        """Write each blob unless its key holds one of a later version; return how many were written."""
        ...

    def read(self, plan: ReadPlan) -> None:
        """Read all parts of a plan in one round trip; the methods below that read are plans of one part."""
        ...

    def write_histories(self, histories: Histories, *, version: Version | None = None) -> None:
        """Write the histories of these users; the newest `history_length` events of each are kept."""
        ...

    def histories(self, user_ids: Sequence[str], limit: int) -> Histories:
        """Return the newest `limit` events of each user; an unknown user has none."""
        ...

    def write_states(
        self,
        user_ids: Sequence[str],
        states: Sequence[bytes],
        *,
        event_times: Sequence[int] | None = None,
        version: Version | None = None,
    ) -> None:
        """Write the packed states of these users' features, and the time of each user's newest event."""
        ...

    def write_attributes(
        self, user_ids: Sequence[str], attributes: Sequence[Mapping[str, str]], *, version: Version | None = None
    ) -> None:
        """Write the attributes of these users."""
        ...

    def users(self, user_ids: Sequence[str], limit: int) -> KnownUsers:
        """Return the newest `limit` events, the states and the attributes of each user."""
        ...

    def write_items(self, facts: Sequence[ItemFacts], *, version: Version | None = None) -> None:
        """Write the facts of these items."""
        ...

    def items(self, item_ids: Sequence[str]) -> list[ItemFacts | None]:
        """Return the facts of each item, None for an unknown one."""
        ...

    def write_item_features(
        self,
        item_ids: Sequence[str],
        columns: Columns,
        *,
        event_times: Sequence[int] | None = None,
        version: Version | None = None,
    ) -> None:
        """Write the features of these items: one row of `columns` each, named as in `features.definitions`."""
        ...

    def item_features(self, item_ids: Sequence[str]) -> Columns | None:
        """Return the features of each item, the defaults for an unknown one; None where all are unknown."""
        ...

    def generations(self) -> tuple[int, int | None]:
        """Return the generation that is read, and the one that is complete and waits to be read, if any."""
        ...

    def new_generation(self) -> int:
        """Return a number that no generation had before."""
        ...

    def announce(self, generation: int) -> None:
        """Let this generation, complete by now, be the one that waits to be read."""
        ...

    def flip(self, generation: int) -> bool:
        """Read the waiting generation from now on; False, and nothing changes, if it is another one by now."""
        ...

    def some_entities(self, view: str, count: int) -> list[str]:
        """Return up to `count` entities that the active generation of a view holds, in no order.

        A part of the keys is looked at only: fewer may come although there are more.
        """
        ...

    def remove_old_generations(self) -> int:
        """Remove all entries but those of the active and the waiting generation; return how many there were.

        Nobody may be filling another generation meanwhile.
        """
        ...

    def remove_users(self, user_ids: Iterable[str]) -> int:
        """Remove what any generation, also one that is being filled, holds of these users; return how many blobs."""
        ...

    def ask_to_forget(self, user_ids: Sequence[str]) -> None:
        """Leave word for the stream's writer that these users are to be forgotten as of now."""
        ...

    def to_be_forgotten(self) -> dict[str, int]:
        """Return the users that `ask_to_forget` named and when, milliseconds of the store's clock."""
        ...

    def forgotten(self, user_ids: Sequence[str]) -> None:
        """Take back what `ask_to_forget` said: nothing is left of these users."""
        ...

    def rewrite_files(self) -> None:
        """Let each server write its files anew, without what was removed, where it does that at all."""
        ...

    def writer_lease(self, name: str, seconds: float, *, wait_s: float = 0.0) -> WriterLease:
        """Become the only writer of this name.

        Args:
            name: What is written.
            seconds: After a crash, the lease is free again after so long.
            wait_s: How long to wait for another holder.

        Raises:
            LeaseHeldError: Another process holds it.
        """
        ...

    def write_freshness(self, freshness: Freshness, *, generation: int | None = None) -> None:
        """Say what a generation (left out, the active one) holds, after everything has been written."""
        ...

    def write_progress(self, generation: int, position: int, newest_event_time: int | None) -> None:
        """Say up to which position of the stream, and up to which event, a generation has everything.

        All is folded in but what happened to items, of which the newest may wait (`ITEM_ROWS`).
        """
        ...

    def progress(self, generation: int) -> int | None:
        """Return the position of the last `write_progress` of a generation, None where there was none."""
        ...

    def freshness(self, *, generation: int | None = None) -> Freshness | None:
        """Return what is said of a generation (left out, the active one), None of one without a finished back-fill."""
        ...

    def ping(self) -> None:
        """Return if the store answers."""
        ...

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
