"""A user's newest events, as the view `seen` holds them: by them duplicates are known, late events find their place.

One row per event within the lateness of the user's newest one; of older ones only what the next event may still meet:
the last positive events (for co-visits), and the burst of events without a request id that goes on. Rows lie by user,
time, position on the page, kind and item.

A payload is what `features.states.pack_states` makes of the columns, then the ids of those items that the folds may
have to name, end to end, padded to whole words::

    layout u64 | n u64 | time[n] | key[n] | item[n] | page[n] | marks[n] | ids UTF-8 | zeros
    marks  = position on the page (32 bits) | bytes of the id (24) | came with the newest range (1) | kind (7)

The mark `latest` tells the events of the range whose position the blob has from earlier ones, so that a range folded
again finds the same duplicates as the first time.
Legend: `R` rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.bursts import burst_numbers
from features.events import PAIR_DISTANCE, Events, ItemKeys
from features.online.config import OnlineConfig
from features.schemas import EVENT_CODE, HISTORY_CODES, IMPRESSION, ITEMS, POSITIVE_CODES
from features.states import ENTITY, pack_states, sorted_order, unpack_states
from kernels.hashing import combine_hashes, hash_strings
from kernels.jagged import IntArray, offsets_from_lengths, run_starts

Mask = npt.NDArray[np.bool_]
NO_KEYS = ItemKeys.of_items(ITEMS.empty_table())
"""Where nothing but ids of items is asked for."""
NO_PAGE = 0
"""Of an event without a request id."""
PAST = 1
"""Of an event whose burst is over, and of which only its place among positive events still matters."""
NO_POSITION = (1 << 31) - 1
_LAYOUT = int.from_bytes(b"recent:1", "little")
_COLUMNS = ("time", "key", "item", "page", "marks")
_HEADER_WORDS = 2
_KIND_BITS, _LATEST, _LENGTH_BITS = 7, 1 << 7, 24
_IMPRESSION = EVENT_CODE[IMPRESSION]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recent:
    """`R` events of some users.

    Attributes:
        entity: Number of the user.
        time: Milliseconds.
        key: What duplicates have in common (`event_keys`), as int64.
        item: Hash of the item id, as int64.
        page: Hash of the request id, as int64; `NO_PAGE` without one, `PAST`.
        position: On the page, `NO_POSITION` where unknown.
        code: Of the event kind.
        latest: Whether the event came with the newest range.
        ids: Item ids; empty where no fold may have to name the item.
    """

    entity: IntArray
    time: IntArray
    key: IntArray
    item: IntArray
    page: IntArray
    position: IntArray
    code: npt.NDArray[np.int8]
    latest: Mask
    ids: pa.StringArray

    def __len__(self) -> int:
        return len(self.entity)

    @classmethod
    def of_rows(cls, rows: pa.Table, entity: IntArray) -> Recent:
        """Read rows of `features.schemas.EVENTS`; all are of the newest range."""
        events = Events.of_rows(rows, entity, NO_KEYS)
        requests = rows.column("request_id")
        page = np.where(requests.is_valid(), hash_strings(requests).view(np.int64), NO_PAGE)
        named = np.isin(events.code, HISTORY_CODES) | (page == NO_PAGE)
        positions = pc.fill_null(rows.column("position").cast(pa.int64()), NO_POSITION)
        return cls(
            entity=entity,
            time=events.time,
            key=event_keys(rows, events.code, events.item),
            item=events.item,
            page=page,
            position=np.asarray(positions, dtype=np.int64),
            code=events.code,
            latest=np.ones(len(entity), bool),
            ids=pc.if_else(pa.array(named), rows.column("item_id").combine_chunks(), ""),
        )

    @classmethod
    def of_payloads(cls, payloads: Sequence[bytes | None]) -> Recent:
        """Read the payloads of users 0, 1, ...; None is a user without events."""
        (state,) = unpack_states(payloads, [_COLUMNS], _LAYOUT)
        marks = state.pop("marks")
        lengths = marks >> _KIND_BITS + 1 & (1 << _LENGTH_BITS) - 1
        counts = np.bincount(state[ENTITY], minlength=len(payloads))
        starts = (8 * (_HEADER_WORDS + len(_COLUMNS) * counts)).tolist()
        sizes = np.bincount(state[ENTITY], weights=lengths, minlength=len(payloads)).astype(np.int64).tolist()
        texts = [
            payload[start : start + size]
            for payload, start, size in zip(payloads, starts, sizes, strict=True)
            if payload is not None and size
        ]
        ends = offsets_from_lengths(lengths).astype(np.int32)
        return cls(
            **state,
            position=marks >> _KIND_BITS + 1 + _LENGTH_BITS,
            code=(marks & (1 << _KIND_BITS) - 1).astype(np.int8),
            latest=(marks & _LATEST) != 0,
            ids=pa.StringArray.from_buffers(len(lengths), pa.py_buffer(ends), pa.py_buffer(b"".join(texts))),
        )

    def payloads(self, users: int) -> list[bytes]:
        """Return the payload of each of `users` users; rows lie by user."""
        ends = np.frombuffer(self.ids.buffers()[1], np.int32)[self.ids.offset :][: len(self) + 1].astype(np.int64)
        lengths = np.diff(ends)
        marks = self.position << _LENGTH_BITS | lengths
        marks = marks << _KIND_BITS + 1 | np.where(self.latest, _LATEST, 0) | self.code
        state = {ENTITY: self.entity, **{name: getattr(self, name) for name in _COLUMNS[:-1]}, "marks": marks}
        words = pack_states([state], users, _LAYOUT).to_pylist()
        text = memoryview(self.ids.buffers()[2] or b"")
        edges = ends[offsets_from_lengths(np.bincount(self.entity, minlength=users))].tolist()
        return [
            b"".join((block, text[first:last], bytes((first - last) % 8)))
            for block, first, last in zip(words, edges, edges[1:], strict=False)
        ]

    def take(self, rows: IntArray | Mask) -> Recent:
        """Return these rows."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "ids"]
        ids = self.ids.filter(pa.array(rows)) if rows.dtype == bool else self.ids.take(pa.array(rows))
        return Recent(**{name: getattr(self, name)[rows] for name in names}, ids=ids)

    def of_users(self, users: IntArray, size: int) -> Recent:
        """Return the rows of these of `size` users, numbered by their place in `users`, which increases."""
        number = np.full(size, -1, np.int64)
        number[users] = np.arange(len(users))
        rows = self.take(number[self.entity] >= 0)
        return dataclasses.replace(rows, entity=number[rows.entity])

    def joined(self, other: Recent) -> Recent:
        """Return these rows and those of `other`, in order."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "ids"]
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return Recent(**columns, ids=pa.concat_arrays([self.ids, other.ids])).in_order()

    def in_order(self) -> Recent:
        """Return the rows by user, time, position, kind and item."""
        return self.take(sorted_order([self.entity, self.time, self.position, self.code.astype(np.int64), self.item]))

    @property
    def positive(self) -> Mask:
        """Rows with a click, a cart or a purchase."""
        return np.isin(self.code, POSITIVE_CODES)


def event_keys(rows: pa.Table, code: npt.NDArray[np.int8], item: IntArray) -> IntArray:
    """Return what all duplicates of an event have in common, as int64.

    It is the event's id; of an impression with a request id, the request and the item: the service says that it served
    the page, the client may say that the user saw it, and both mean one impression.
    """
    keys = hash_strings(rows.column("event_id"))
    requests = rows.column("request_id")
    shown = np.flatnonzero((code == _IMPRESSION) & np.asarray(requests.is_valid()))
    keys[shown] = combine_hashes(hash_strings(requests.take(pa.array(shown))), item[shown].view(np.uint64))
    return keys.view(np.int64)


def fresh_rows(rows: Recent, before: Recent) -> Mask:
    """Return which rows are no duplicates: of events before, or of another row; of two rows, the earlier one stays."""
    users_key = _user_keys(rows)
    order = np.lexsort((rows.item, rows.code, rows.time, users_key))
    fresh = np.zeros(len(rows), bool)
    fresh[order[run_starts(users_key[order])]] = True
    found = pc.is_in(pa.array(users_key), value_set=pa.array(_user_keys(before)))
    return fresh & ~found.to_numpy(zero_copy_only=False)


def pruned(recent: Recent, config: OnlineConfig) -> Recent:
    """Return the events of users that the next range may still meet; see the module.

    Args:
        recent: All that was held, in order.
        config: Lateness, gap and the most rows of a user.
    """
    if not len(recent):
        return recent
    starts = run_starts(recent.entity)
    sizes = np.diff(starts, append=len(recent))
    newest = np.repeat(recent.time[starts + sizes - 1], sizes)
    horizon = newest - config.lateness_ms
    within = recent.time >= horizon
    in_burst = _goes_on(recent, recent.time >= horizon - config.gap_ms, config.gap_ms)
    page = np.where((recent.page == NO_PAGE) & ~in_burst, PAST, recent.page)
    kept = within | in_burst | _last_before(recent, recent.positive & ~within, PAIR_DISTANCE)
    kept &= np.repeat(starts + sizes, sizes) - np.arange(len(recent)) <= config.recent_events
    return dataclasses.replace(recent, page=page).take(kept)


def _user_keys(recent: Recent) -> npt.NDArray[np.uint64]:
    """Return keys in which the user has a part; the same event id of two users means two events."""
    spread = recent.entity.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return recent.key.view(np.uint64) ^ spread


def _last_before(recent: Recent, chosen: Mask, count: int) -> Mask:
    """Return the last `count` chosen rows of each user."""
    rows = np.flatnonzero(chosen)
    last = np.zeros(len(recent), bool)
    if len(rows):
        starts = run_starts(recent.entity[rows])
        sizes = np.diff(starts, append=len(rows))
        last[rows[np.repeat(starts + sizes, sizes) - np.arange(len(rows)) <= count]] = True
    return last


def _goes_on(recent: Recent, reaches: Mask, gap_ms: int) -> Mask:
    """Return the rows of all bursts of which one row reaches far enough."""
    rows = np.flatnonzero(recent.page == NO_PAGE)
    goes_on = np.zeros(len(recent), bool)
    if len(rows):
        burst = burst_numbers(recent.entity[rows], recent.time[rows], gap_ms)
        goes_on[rows] = np.bincount(burst, weights=reaches[rows])[burst] > 0
    return goes_on
