"""Payloads of item features: a row of columns each, in words of 4 bytes, many rows at once.

::

    numbers f32[m] | values u32[c] | column 0: hashes u64[n0], weights f32[n0] | column 1: ...

Weights only in columns that have them. Which columns there are, and in which order, follows from the features; the
`schema` of the header is a digest of that.
Legend: `R` rows, `W` words of all rows, `V` values of one column.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from features.columns import Columns, IdColumn
from features.definitions import ITEM, Feature, features_of
from features.folds import NUMBER, WEIGHTS
from features.values import take_or_default
from kernels.jagged import concat_ranges, offsets_from_lengths

Words = npt.NDArray[np.uint32]
_WORD, _HASH_WORDS = 4, 2


def features_payloads(columns: Columns) -> Iterator[bytes]:
    """Yield the payload of each row of item features."""
    features = features_of(ITEM)
    numbers, jagged = _by_kind(features)
    counts_RC = np.zeros((columns.rows, len(jagged)), dtype=np.int64)
    for place, feature in enumerate(jagged):
        counts_RC[:, place] = np.diff(columns.ids[feature.name].offsets)
    widths_C = np.array([_value_words(feature) for feature in jagged], dtype=np.int64)
    offsets = offsets_from_lengths(len(numbers) + len(jagged) + counts_RC @ widths_C)
    words = np.empty(offsets[-1], dtype="<u4")
    at_R = offsets[:-1].copy()
    for feature in numbers:
        words[at_R] = columns.numbers[feature.name].astype("<f4").view("<u4")
        at_R += 1
    words[at_R[:, None] + np.arange(len(jagged))] = counts_RC
    at_R += len(jagged)
    for feature, counts_R in zip(jagged, counts_RC.T, strict=True):
        column = columns.ids[feature.name]
        words[concat_ranges(at_R, counts_R * _HASH_WORDS)] = column.hashes.astype("<u8").view("<u4")
        at_R += counts_R * _HASH_WORDS
        if feature.kind == WEIGHTS and column.weights is not None:
            words[concat_ranges(at_R, counts_R)] = column.weights.astype("<f4").view("<u4")
            at_R += counts_R
    payload = words.tobytes()
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield payload[start * _WORD : end * _WORD]


def read_features_payloads(payloads: Sequence[bytes | None]) -> Columns | None:
    """Read what `features_payloads` wrote.

    Args:
        payloads: `R` payloads, None where there is none.

    Returns:
        `R` rows of columns, with the defaults where there is no payload; None where there is none at all.
    """
    features = features_of(ITEM)
    present = [payload for payload in payloads if payload is not None]
    if not present:
        return None
    there = np.array([payload is not None for payload in payloads])
    return take_or_default(_columns(present, features), np.where(there, np.cumsum(there) - 1, -1), features)


def features_schema() -> int:
    """Return the layout of item features by now."""
    columns = [(feature.name, repr(feature.fold)) for feature in features_of(ITEM)]
    return zlib.crc32(f"item_features:1:{columns}".encode())


def _columns(payloads: Sequence[bytes], features: Sequence[Feature]) -> Columns:
    words = np.frombuffer(b"".join(payloads), dtype="<u4").astype(np.uint32)
    at_R = offsets_from_lengths(np.array([len(payload) // _WORD for payload in payloads]))[:-1]
    number_features, jagged = _by_kind(features)
    numbers, ids = {}, {}
    for feature in number_features:
        numbers[feature.name] = words[at_R].view(np.float32)
        at_R = at_R + 1
    counts_RC = words[at_R[:, None] + np.arange(len(jagged))].astype(np.int64)
    at_R = at_R + len(jagged)
    for feature, counts_R in zip(jagged, counts_RC.T, strict=True):
        hashes = words[concat_ranges(at_R, counts_R * _HASH_WORDS)].view(np.uint64)
        at_R = at_R + counts_R * _HASH_WORDS
        weights = words[concat_ranges(at_R, counts_R)].view(np.float32) if feature.kind == WEIGHTS else None
        at_R = at_R + counts_R * (feature.kind == WEIGHTS)
        ids[feature.name] = IdColumn(hashes=hashes, offsets=offsets_from_lengths(counts_R), weights=weights)
    return Columns(rows=len(payloads), ids=ids, numbers=numbers)


def _by_kind(features: Sequence[Feature]) -> tuple[list[Feature], list[Feature]]:
    """Return the numbers, and the features with any number of values per row."""
    numbers = [feature for feature in features if feature.kind == NUMBER]
    return numbers, [feature for feature in features if feature.kind != NUMBER]


def _value_words(feature: Feature) -> int:
    return _HASH_WORDS + (feature.kind == WEIGHTS)
