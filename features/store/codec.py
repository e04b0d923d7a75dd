"""Binary blobs of the online store: a fixed header, a fixed-width block, then the strings.

::

    header   schema u32 | generation u64 | position u64 | event time i64 | crc32 u32        big-endian, 32 bytes
    history  n u32 | times i64[n] | pages u64[n] | events i8[n] | id lengths u32[n] | ids UTF-8
    item     price f64 | available from i64 | flags u8 | m u32 | lengths u32[m] | item id, title, brand, categories
    state    as packed by `features.states`
    user     attributes as JSON

Payloads are little-endian; item features have a module of their own, `feature_codec`; views that are not named here
belong to the stream. `schema` names the layout, so that a reader never decodes what another version wrote. The checksum
covers everything but itself. Strings of many users are gathered without decoding one of them.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.definitions import state_layout
from features.store.base import (
    HISTORY,
    ITEM,
    ITEM_CHANGES,
    ITEM_FEATURES,
    ITEM_ROWS,
    ITEM_STATE,
    ITEM_TURN,
    SEEN,
    SEEN_PAGES,
    STATE,
    USER,
    Held,
    Histories,
    ItemFacts,
    Version,
)
from features.store.feature_codec import features_schema
from kernels.jagged import offsets_from_lengths

_SCHEMAS = {
    HISTORY: zlib.crc32(b"history:2:n,times_i64,pages_u64,events_i8,lengths_u32,ids"),
    ITEM: zlib.crc32(b"item:1:price_f64,from_i64,flags_u8,n,lengths_u32,id,title,brand,categories"),
    USER: zlib.crc32(b"user:1:attributes_json"),
    SEEN: zlib.crc32(b"seen:1"),
    SEEN_PAGES: zlib.crc32(b"seen_pages:1:requests_i64,times_i64,positions_i64"),
    ITEM_STATE: zlib.crc32(b"item_state:1"),
    **dict.fromkeys(ITEM_ROWS, zlib.crc32(b"item_rows:1:arrow_batch:id,time_i64,code_i8,other_i64,count_i8")),
    ITEM_CHANGES: zlib.crc32(b"item_changes:1"),
    ITEM_TURN: zlib.crc32(b"item_turn:1:16_buckets:ranges_u64,rows_u64"),
}
_STATE = b"state:1:layout="

_HEADER = struct.Struct(">IQQqI")
_CHECKED = struct.Struct(">IQQq")
_CHECKSUM = struct.Struct(">I")
_HEADER_BYTES, _CHECKED_BYTES = _HEADER.size, _CHECKED.size
_COUNT = struct.Struct("<I")
_ITEM = struct.Struct("<dqBI")
_AVAILABLE, _HAS_BRAND = 1, 2
_NO_TIME = -(2**63)
_LAYOUT_BYTES = 8


class CorruptBlobError(ValueError):
    """A blob that this version did not write, or that was damaged since."""


class HistoryPart(NamedTuple):
    """One user's history, oldest entry first: `n` entries, their ids as one text.

    Attributes:
        times: int64 milliseconds.
        pages: Hashes of request ids, uint64, 0 for none.
        events: Codes of `features.schemas.EVENT_KINDS`, int8.
        lengths: Bytes of each id, uint32.
        text: The ids end to end, UTF-8.
    """

    times: npt.NDArray[np.int64]
    pages: npt.NDArray[np.uint64]
    events: npt.NDArray[np.int8]
    lengths: npt.NDArray[np.uint32]
    text: memoryview


def pack(schema: int, version: Version, event_time: int, payload: bytes) -> bytes:
    """Put the header before a payload."""
    checked = _CHECKED.pack(schema, *version, event_time)
    return checked + _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(checked))) + payload


def unpack(blob: bytes, schema: int) -> Held:
    """Check the header and return what it says, and the payload.

    Raises:
        CorruptBlobError: Too short, another layout, or a wrong checksum.
    """
    if len(blob) < _HEADER_BYTES:
        raise CorruptBlobError(f"blob: expected at least {_HEADER_BYTES} bytes, got {len(blob)}")
    found, generation, position, event_time, checksum = _HEADER.unpack_from(blob)
    if found != schema:
        raise CorruptBlobError(f"blob: expected layout {schema:08x}, got {found:08x}")
    payload = blob[_HEADER_BYTES:]
    if zlib.crc32(payload, zlib.crc32(blob[:_CHECKED_BYTES])) != checksum:
        raise CorruptBlobError("blob: the checksum does not match the content")
    return Held(Version(generation, position), event_time, payload)


def layouts() -> dict[str, int]:
    """Return the schema of the layout that this version reads in each view."""
    state = _state_schema(state_layout().to_bytes(_LAYOUT_BYTES, "little"))
    return {**_SCHEMAS, STATE: state, ITEM_FEATURES: features_schema()}


def state_schema(payload: bytes) -> int:
    """Return the schema of a state to be written: its first word tells its layout."""
    return _state_schema(payload[:_LAYOUT_BYTES])


def history_payload(part: HistoryPart) -> bytes:
    """Lay one user's history out."""
    return b"".join(
        (
            _COUNT.pack(len(part.times)),
            part.times.astype("<i8").tobytes(),
            part.pages.astype("<u8").tobytes(),
            part.events.astype("i1").tobytes(),
            part.lengths.astype("<u4").tobytes(),
            part.text,
        )
    )


def read_history_payload(payload: bytes, limit: int | None = None) -> HistoryPart:
    """Read what `history_payload` wrote; the newest `limit` entries of it, if given."""
    (count,) = _COUNT.unpack_from(payload)
    at = _COUNT.size
    times = np.frombuffer(payload, "<i8", count, at)
    pages = np.frombuffer(payload, "<u8", count, at + 8 * count)
    events = np.frombuffer(payload, "i1", count, at + 16 * count)
    lengths = np.frombuffer(payload, "<u4", count, at + 17 * count)
    text = memoryview(payload)[at + 21 * count :]
    if limit is None or count <= limit:
        return HistoryPart(times, pages, events, lengths, text)
    start = int(lengths[:-limit].sum())
    return HistoryPart(times[-limit:], pages[-limit:], events[-limit:], lengths[-limit:], text[start:])


def split_histories(histories: Histories, *, length: int) -> Iterator[HistoryPart]:
    """Yield each user's newest `length` entries."""
    item_ids = histories.item_ids
    ends = _string_offsets(item_ids)
    text = memoryview(item_ids.buffers()[2] or b"")
    lengths = np.diff(ends).astype(np.uint32)
    for first, last in zip(histories.offsets[:-1].tolist(), histories.offsets[1:].tolist(), strict=True):
        kept = slice(max(first, last - length), last)
        times, pages, events = histories.times[kept], histories.pages[kept], histories.events[kept]
        yield HistoryPart(times, pages, events, lengths[kept], text[ends[kept.start] : ends[last]])


def join_histories(user_ids: Sequence[str], parts: Sequence[HistoryPart]) -> Histories:
    """Lay the histories of users, one part each, end to end."""
    times, pages, events, lengths, texts = zip(*parts, strict=True) if parts else ((), (), (), (), ())
    ends = offsets_from_lengths(np.concatenate([np.zeros(0, "<u4"), *lengths]))
    item_ids = pa.StringArray.from_buffers(
        len(ends) - 1, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(texts))
    )
    return Histories(
        user_ids=user_ids,
        offsets=offsets_from_lengths(np.array([len(part) for part in times], dtype=np.int64)),
        item_ids=item_ids,
        events=np.concatenate([np.zeros(0, np.int8), *events]),
        times=np.concatenate([np.zeros(0, np.int64), *times]),
        pages=np.concatenate([np.zeros(0, np.uint64), *pages]),
    )


EMPTY_HISTORY = HistoryPart(
    np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int8), np.zeros(0, np.uint32), memoryview(b"")
)
"""Of a user without events."""


def item_payload(facts: ItemFacts) -> bytes:
    """Lay an item's facts out."""
    texts = [text.encode() for text in (facts.item_id, facts.title, facts.brand or "", *facts.category)]
    fixed = _ITEM.pack(
        math.nan if facts.price is None else facts.price,
        _NO_TIME if facts.available_from is None else facts.available_from,
        _AVAILABLE * facts.available + _HAS_BRAND * (facts.brand is not None),
        len(texts),
    )
    return b"".join((fixed, struct.pack(f"<{len(texts)}I", *map(len, texts)), *texts))


def read_item_payload(payload: bytes) -> ItemFacts:
    """Read what `item_payload` wrote."""
    price, available_from, flags, count = _ITEM.unpack_from(payload)
    lengths = struct.unpack_from(f"<{count}I", payload, _ITEM.size)
    at = _ITEM.size + 4 * count
    texts = []
    for length in lengths:
        texts.append(str(payload[at : at + length], "utf-8"))
        at += length
    return ItemFacts(
        item_id=texts[0],
        title=texts[1],
        brand=texts[2] if flags & _HAS_BRAND else None,
        category=tuple(texts[3:]),
        price=None if math.isnan(price) else price,
        available_from=None if available_from == _NO_TIME else available_from,
        available=bool(flags & _AVAILABLE),
    )


def attributes_payload(attributes: Mapping[str, str]) -> bytes:
    """Lay a user's attributes out."""
    return json.dumps(dict(attributes), sort_keys=True).encode()


def read_attributes_payload(payload: bytes) -> dict[str, str]:
    """Read what `attributes_payload` wrote."""
    attributes: dict[str, str] = json.loads(bytes(payload))
    return attributes


def _state_schema(layout: bytes) -> int:
    return zlib.crc32(layout, zlib.crc32(_STATE))


def _string_offsets(strings: pa.StringArray) -> npt.NDArray[np.int32]:
    """Return the `len + 1` byte positions of an Arrow string array, slices included."""
    return np.frombuffer(strings.buffers()[1], np.int32, len(strings) + 1, 4 * strings.offset)
