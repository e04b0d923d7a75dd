"""Which values of features new events change, and what must be read to compute them anew.

The planner looks at keys only: who has new events since when, which pages there are, which have values already.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import ITEM, ITEM_STATES, PAGE_FEATURES, USER, USER_STATES, features_of, memories_of
from features.memories import CO_VISITS, Counts
from features.workspace import Workspace
from pipelines.batch.arrow import DAY_MS, Ints, milliseconds
from pipelines.batch.folding import KEY_COLUMNS, steps_of
from pipelines.batch.increment import CannotFoldError
from pipelines.batch.merge import without_keys
from pipelines.batch.transforms import SORT_KEYS

KEYS = SORT_KEYS[PAGE_FEATURES]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturePlan:
    """What is to be done.

    Attributes:
        anchors: Keys of the pages whose values are computed.
        removed: Keys of the values that they replace, or whose pages are gone.
        replayed: Users some of whose pages lie before events that their states hold.
        user_days: First day of the events that these need, and of those that changes of pairs need.
        items: Whose values of earlier midnights may change.
        item_day: First day of the events that these need.
    """

    anchors: pa.Table
    removed: pa.Table
    replayed: pa.Array
    user_days: tuple[str, str]
    items: pa.Array
    item_day: str


def make_plan(workspace: Workspace, fresh: pa.Table, first_page_day: str, midnight_ms: int) -> FeaturePlan:
    """Compare keys.

    Args:
        workspace: Holds `pages`, `page_features`, `user_states`, `clean_events`.
        fresh: Columns `user_id` and `timestamp` of the new events, at least one.
        first_page_day: Before this day no page has changed.
        midnight_ms: The last midnight that has values of items.
    """
    users, since = _first_times(fresh)
    pages, valued = _keys(workspace, "pages", first_page_day), _keys(workspace, PAGE_FEATURES, first_page_day)
    changed_pages, stale = (
        table.filter(pa.array(milliseconds(table.column("timestamp")) > _of_users(table, users, since, _NEVER)))
        for table in (pages, valued)
    )
    new, gone = without_keys(pages, valued, KEYS), without_keys(valued, pages, KEYS)
    anchors, removed = _union(changed_pages, new), _union(stale, gone)
    states = workspace.table(USER_STATES).read(["user_id", "last_time"])
    last = _of_users(anchors, states.column("user_id"), milliseconds(states.column("last_time")), -1)
    early = anchors.filter(pa.array(milliseconds(anchors.column("timestamp")) <= last))
    first_ms = int(since.min())
    late = fresh.filter(pa.array(milliseconds(fresh.column("timestamp")) < midnight_ms))
    near = day_of(first_ms - DAY_MS)
    return FeaturePlan(
        anchors=anchors,
        removed=removed,
        replayed=pc.unique(early.column("user_id")),
        user_days=(_reach(early, workspace), near),
        items=_items_near(workspace, pc.unique(late.column("user_id")), near),
        item_day=day_of(first_ms - _item_reach()),
    )


def check_catalogue(workspace: Workspace) -> None:
    """Check that what features are keyed by is what it was, for all items with events.

    Raises:
        CannotFoldError: An item has another category, brand or price now.
    """
    known = workspace.table(ITEM_STATES).read(KEY_COLUMNS).combine_chunks()
    catalogue = workspace.table("clean_items").read(KEY_COLUMNS)
    at = pc.index_in(known.column("item_id"), value_set=catalogue.column("item_id").combine_chunks())
    for name in KEY_COLUMNS[1:]:
        now = catalogue.column(name).combine_chunks().take(at.combine_chunks())
        if not now.equals(known.column(name).combine_chunks()):
            raise CannotFoldError(f"changed: {name} of items that have events")
    pairs = [memory for memory in memories_of(features_of(ITEM)) if memory.stream == CO_VISITS]
    if not all(isinstance(memory, Counts) for memory in pairs):
        raise CannotFoldError("a feature remembers co-visits as something else than counts")


def day_of(moment: int) -> str:
    """Return the UTC day of a moment, `YYYY-MM-DD`."""
    return str(dt.datetime.fromtimestamp(max(moment, 0) // 1000, dt.UTC).date())


_NEVER = np.iinfo(np.int64).max


def _first_times(fresh: pa.Table) -> tuple[pa.ChunkedArray, Ints]:
    """Return the users of events, and the time of the first one of each."""
    grouped = fresh.group_by("user_id").aggregate([("timestamp", "min")])
    return grouped.column("user_id"), milliseconds(grouped.column("timestamp_min"))


def _of_users(rows: pa.Table, users: pa.ChunkedArray, values: Ints, absent: int) -> Ints:
    """Return the value of each row's user."""
    place = np.asarray(pc.fill_null(pc.index_in(rows.column("user_id"), value_set=users.combine_chunks()), len(values)))
    return np.append(values, absent)[place]


def _keys(workspace: Workspace, name: str, since: str) -> pa.Table:
    moment = pa.scalar(dt.datetime.fromisoformat(since).replace(tzinfo=dt.UTC), pa.timestamp("ms", tz="UTC"))
    return workspace.table(name).read(KEYS, pc.field("timestamp") >= moment)


def _union(rows: pa.Table, others: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, without_keys(others, rows, KEYS)])


def _reach(early: pa.Table, workspace: Workspace) -> str:
    """Return the first day of events that count on any of these pages."""
    if not early.num_rows:
        return "9999-12-31"
    keep_ms = max(memory.keep_ms for memory in memories_of(features_of(USER)))
    return day_of(int(milliseconds(early.column("timestamp")).min()) - keep_ms)


def _item_reach() -> int:
    """Return how far back events of items count, or change values at a midnight."""
    chosen = features_of(ITEM)
    steps = max(step for stream in {f.fold.memory.stream for f in chosen} for step in steps_of(chosen, stream))
    return max(steps, *(memory.keep_ms for memory in memories_of(chosen))) + 2 * DAY_MS


def _items_near(workspace: Workspace, users: pa.Array, since: str) -> pa.Array:
    """Return the items of these users' events since a day: those whose pairs late events may change are among them."""
    if not len(users):
        return pa.array([], pa.string())
    moment = pa.scalar(dt.datetime.fromisoformat(since).replace(tzinfo=dt.UTC), pa.timestamp("ms", tz="UTC"))
    wanted = (pc.field("timestamp") >= moment) & pc.field("user_id").isin(users)
    return pc.unique(workspace.table("clean_events").read(["item_id"], wanted).column("item_id"))
