"""Fill the online store from a workspace's tables: the next generation beside the one that is read, then the flip.

Histories come from `sequences`, facts from `clean_items`; where there are such tables, states of user features from
`user_states`, user attributes from `clean_users`, item features from `item_features`; and from `clean_events` what a
stream needs to go on (`features.online.backfill`).

A generation that is complete waits to be read. If no stream writes, the back-fill flips to it at once. A stream (it
holds the lease `STREAM`) folds first what has come since the position that the tables cover, and flips then. After a
crash of either, the next back-fill, or the stream when it comes back, flips.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time

from features.definitions import ITEM_FEATURES, USER_STATES
from features.online.backfill import backfill_online
from features.online.config import OnlineConfig
from features.schemas import CLEAN_TABLES
from features.store.base import Freshness, LeaseHeldError, OnlineStore, Version
from features.store.codec import layouts
from features.store.config import StoreConfig
from features.store.filling import Filled, fill
from features.workspace import Workspace

BACKFILL, STREAM = "backfill", "stream"
"""Leases: of who fills a generation, and of who folds new events into the active one."""
LEASE_S = 30.0
ONLINE = OnlineConfig()
"""How a stream with default settings folds."""
FLIP_STEP_S = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackfillReport:
    """What a back-fill wrote."""

    filled: Filled | None
    """What was written; None where the store held these inputs already."""
    generation: str
    """Names the inputs; equal inputs have equal names."""
    number: int
    """Of the store's generation."""
    active: bool
    """Whether it is read by now; False while a stream has still to catch up."""
    removed: int
    """Entries of older generations that were removed."""
    seconds: float

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        state = "is read by now" if self.active else "waits until the stream has caught up"
        name = f"generation {self.number} ({self.generation}) {state}"
        if self.filled is None:
            return [f"store: holds these inputs already; {name}"]
        rate = self.filled.keys / self.seconds if self.seconds > 0 else 0.0
        return [
            *self.filled.lines(),
            f"store: {self.seconds:.1f} s, {rate:,.0f} keys/s; {name}, {self.removed:,} old entries removed",
        ]


def backfill(
    workspace: Workspace,
    store: OnlineStore,
    config: StoreConfig,
    *,
    position: int = 0,
    online: OnlineConfig = ONLINE,
    flip_wait_s: float = 60.0,
) -> BackfillReport:
    """Write what is known of every user and item; doing it again changes nothing.

    Args:
        workspace: Holds the tables `sequences` and `clean_items`, perhaps the others.
        store: Where to write.
        config: `history_length` applies.
        position: Position of the stream up to which its events are in the tables.
        online: As the stream folds, which goes on from this back-fill.
        flip_wait_s: How long to wait for a stream to catch up.

    Raises:
        LeaseHeldError: Another back-fill is at work.
        LeaseLostError: The store did not answer for too long.
        MissingTableError: A table has not been written yet.
        StoreUnavailableError: The store does not answer.
    """
    began = time.monotonic()
    name = inputs_name(workspace, config, online)
    with store.writer_lease(BACKFILL, LEASE_S) as lease:
        active, waiting = store.generations()
        number = next((held for held in (active, waiting) if held is not None and _holds(store, held, name)), None)
        filled = None
        if number is None:
            number = store.new_generation()
            filled = fill(workspace, store, config.history_length, Version(number, position), lease.check)
            if workspace.table(CLEAN_TABLES["events"]).exists():
                version = Version(number, position)
                backfill_online(workspace, store, version=version, config=online, check=lease.check)
            store.write_freshness(_freshness(name, filled, position), generation=number)
            lease.check()
            store.announce(number)
        read = number == active or _flipped(store, number, flip_wait_s)
        lease.check()  # whoever has it by now is filling a generation that looks like an old one
        removed = store.remove_old_generations()
    return BackfillReport(
        filled=filled, generation=name, number=number, active=read, removed=removed, seconds=time.monotonic() - began
    )


def inputs_name(workspace: Workspace, config: StoreConfig, online: OnlineConfig) -> str:
    """Return 16 hexadecimal digits that name what a back-fill would write: tables, their layout, options."""
    tables = [workspace.table(name) for name in ("sequences", CLEAN_TABLES["items"])]
    names = (USER_STATES, CLEAN_TABLES["users"], CLEAN_TABLES["events"], ITEM_FEATURES)
    optional = [workspace.table(name) for name in names]
    tables += [table for table in optional if table.exists()]
    parts = [
        *(table.manifest().fingerprint for table in tables),
        repr(layouts()),
        str(config.history_length),
        repr(online),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _freshness(name: str, filled: Filled, position: int) -> Freshness:
    return Freshness(
        generation=name,
        newest_event_time=filled.newest_event_time,
        users=filled.users,
        items=filled.items,
        position=position,
    )


def _holds(store: OnlineStore, generation: int, name: str) -> bool:
    said = store.freshness(generation=generation)
    return said is not None and said.generation == name


def _flipped(store: OnlineStore, generation: int, wait_s: float) -> bool:
    """Wait until a stream has flipped, or flip where there is none: only who holds its lease may."""
    deadline = time.monotonic() + wait_s
    while store.generations()[0] != generation:
        try:
            with store.writer_lease(STREAM, LEASE_S):
                if not store.flip(generation):
                    return store.generations()[0] == generation
        except LeaseHeldError:
            if time.monotonic() > deadline:
                return False
            time.sleep(FLIP_STEP_S)
    return True
