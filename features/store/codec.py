"""Binary blobs of the online store: a fixed header, a fixed-width block, then the strings.

::

    header   schema u32 | generation u64 | event time i64 | crc32 u32        little-endian, 24 bytes
    history  n u32 | times i64[n] | events i8[n] | id lengths u32[n] | ids UTF-8
    item     price f64 | available from i64 | flags u8 | m u32 | lengths u32[m] | item id, title, brand, categories
    state    as packed by `features.states`
    user     attributes as JSON

Item features have a module of their own, `feature_codec`. `schema` names the layout, so that a reader never decodes
what another version wrote. The checksum covers everything but itself. Strings of many users are gathered without
decoding one of them.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.store.base import Histories, ItemFacts
from kernels.jagged import offsets_from_lengths

HISTORY_SCHEMA = zlib.crc32(b"history:1:n,times_i64,events_i8,lengths_u32,ids")
ITEM_SCHEMA = zlib.crc32(b"item:1:price_f64,from_i64,flags_u8,n,lengths_u32,id,title,brand,categories")
ATTRIBUTES_SCHEMA = zlib.crc32(b"user:1:attributes_json")
_STATE = b"state:1:layout="

_HEADER = struct.Struct("<IQqI")
_CHECKED = struct.Struct("<IQq")
_COUNT = struct.Struct("<I")
_ITEM = struct.Struct("<dqBI")
_AVAILABLE, _HAS_BRAND = 1, 2
_NO_TIME = -(2**63)
_LAYOUT_BYTES = 8


class CorruptBlobError(ValueError):
    """A blob that this version did not write, or that was damaged since."""


def pack(schema: int, generation: int, event_time: int, payload: bytes) -> bytes:
    """Put the header before a payload."""
    checked = _CHECKED.pack(schema, generation, event_time)
    return checked + _COUNT.pack(zlib.crc32(payload, zlib.crc32(checked))) + payload


def unpack(blob: bytes, schema: int) -> memoryview:
    """Check the header and return the payload.

    Raises:
        CorruptBlobError: Too short, another layout, or a wrong checksum.
    """
    if len(blob) < _HEADER.size:
        raise CorruptBlobError(f"blob: expected at least {_HEADER.size} bytes, got {len(blob)}")
    found, _, _, checksum = _HEADER.unpack_from(blob)
    if found != schema:
        raise CorruptBlobError(f"blob: expected layout {schema:08x}, got {found:08x}")
    view = memoryview(blob)
    payload = view[_HEADER.size :]
    if zlib.crc32(payload, zlib.crc32(view[: _CHECKED.size])) != checksum:
        raise CorruptBlobError("blob: the checksum does not match the content")
    return payload


def encode_histories(histories: Histories, *, length: int, generation: int) -> Iterator[bytes]:
    """Yield each user's blob with the newest `length` events."""
    item_ids = histories.item_ids
    ends = _string_offsets(item_ids)
    text = memoryview(item_ids.buffers()[2] or b"")
    lengths = np.diff(ends).astype("<u4")
    times = histories.times.astype("<i8")
    events = histories.events.astype("i1")
    for first, last in zip(histories.offsets[:-1].tolist(), histories.offsets[1:].tolist(), strict=True):
        start = max(first, last - length)
        payload = b"".join(
            (
                _COUNT.pack(last - start),
                times[start:last].tobytes(),
                events[start:last].tobytes(),
                lengths[start:last].tobytes(),
                text[ends[start] : ends[last]],
            )
        )
        yield pack(HISTORY_SCHEMA, generation, int(times[last - 1]) if last > start else 0, payload)


def decode_history(
    blob: bytes, limit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8], npt.NDArray[np.uint32], memoryview]:
    """Return times, events, lengths of ids and the ids' text of the newest `limit` events.

    Raises:
        CorruptBlobError: See `unpack`.
    """
    payload = unpack(blob, HISTORY_SCHEMA)
    (count,) = _COUNT.unpack_from(payload)
    at = _COUNT.size
    times = np.frombuffer(payload, "<i8", count, at)
    events = np.frombuffer(payload, "i1", count, at + 8 * count)
    lengths = np.frombuffer(payload, "<u4", count, at + 9 * count)
    text = payload[at + 13 * count :]
    if count <= limit:
        return times, events, lengths, text
    return times[-limit:], events[-limit:], lengths[-limit:], text[int(lengths[:-limit].sum()) :]


def join_histories(
    user_ids: Sequence[str],
    parts: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int8], npt.NDArray[np.uint32], memoryview]],
) -> Histories:
    """Lay what `decode_history` returned for each user end to end."""
    times, events, lengths, texts = zip(*parts, strict=True) if parts else ((), (), (), ())
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
    )


EMPTY_HISTORY = (np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.uint32), memoryview(b""))
"""What `decode_history` would return for a user without events."""


def encode_item(facts: ItemFacts, *, generation: int) -> bytes:
    """Return an item's blob."""
    texts = [text.encode() for text in (facts.item_id, facts.title, facts.brand or "", *facts.category)]
    fixed = _ITEM.pack(
        math.nan if facts.price is None else facts.price,
        _NO_TIME if facts.available_from is None else facts.available_from,
        _AVAILABLE * facts.available + _HAS_BRAND * (facts.brand is not None),
        len(texts),
    )
    lengths = struct.pack(f"<{len(texts)}I", *map(len, texts))
    return pack(ITEM_SCHEMA, generation, 0, b"".join((fixed, lengths, *texts)))


def decode_item(blob: bytes) -> ItemFacts:
    """Read what `encode_item` wrote.

    Raises:
        CorruptBlobError: See `unpack`.
    """
    payload = unpack(blob, ITEM_SCHEMA)
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


def encode_state(state: bytes, *, generation: int) -> bytes:
    """Return the blob of a packed state of features; its `schema` covers the state's own layout, its first word."""
    return pack(_state_schema(state[:_LAYOUT_BYTES]), generation, 0, state)


def decode_state(blob: bytes, layout: int) -> bytes:
    """Read what `encode_state` wrote.

    Args:
        blob: The blob.
        layout: Of the features by now (`features.definitions.state_layout`).

    Raises:
        CorruptBlobError: See `unpack`; also a state of other features.
    """
    return bytes(unpack(blob, _state_schema(layout.to_bytes(_LAYOUT_BYTES, "little"))))


def encode_attributes(attributes: Mapping[str, str], *, generation: int) -> bytes:
    """Return the blob of a user's attributes."""
    return pack(ATTRIBUTES_SCHEMA, generation, 0, json.dumps(dict(attributes), sort_keys=True).encode())


def decode_attributes(blob: bytes) -> dict[str, str]:
    """Read what `encode_attributes` wrote.

    Raises:
        CorruptBlobError: See `unpack`.
    """
    attributes: dict[str, str] = json.loads(bytes(unpack(blob, ATTRIBUTES_SCHEMA)))
    return attributes


def _state_schema(layout: bytes) -> int:
    return zlib.crc32(layout, zlib.crc32(_STATE))


def _string_offsets(strings: pa.StringArray) -> npt.NDArray[np.int32]:
    """Return the `len + 1` byte positions of an Arrow string array, slices included."""
    return np.frombuffer(strings.buffers()[1], np.int32, len(strings) + 1, 4 * strings.offset)
