"""States of folds: columns of int64, many entities at once; sorting and adding up their rows, packing them into bytes.

A state is `{"entity": ..., "code": ..., "time": ..., ...}`, one int64 array per column, rows sorted by entity. Hashes
are kept as the int64 with the same bits and amounts as whole numbers, so that merging never rounds and the order of
merging never shows.

A packed state holds the rows of all states of one entity, 8 bytes a word, little-endian::

    layout u64 | rows of state 0 | rows of state 1 | ... | state 0: column 0, column 1, ... | state 1: ...

`layout` is a digest of everything that gives the words their meaning: bytes of another layout are refused.
Legend: `R` rows, `B` blobs, `S` states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from kernels.jagged import IntArray, concat_ranges, offsets_from_lengths, run_starts

State = dict[str, IntArray]
ENTITY = "entity"
_PACKED_SPAN = 1 << 62
_KEY_BITS, _WIDE_BITS, _LEAST_BITS = 62, 48, 28
"""Of a key to sort by; of a column that has to be cut, such as a hash; and those that must be left of it."""


class StaleStateError(ValueError):
    """A packed state that was written for other features."""


def empty_state(columns: Sequence[str]) -> State:
    """Return a state without rows."""
    return {name: np.zeros(0, np.int64) for name in (ENTITY, *columns)}


def concat_states(states: Sequence[State]) -> State:
    """Put the rows of several states of the same columns one after the other."""
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def take_rows(state: State, rows: IntArray | np.ndarray) -> State:
    """Return these rows."""
    return {name: column[rows] for name, column in state.items()}


def sorted_order(columns: Sequence[IntArray]) -> IntArray:
    """Return the order that sorts by the first column, then the second, ...

    Columns are packed into one number first: a sort by one key is several times faster than by four, and rows that are
    two sorted runs are merged. Of hashes only the leading bits fit in; they nearly always tell two apart, and where
    they did not, everything is sorted again by all bits.
    """
    spans = [(int(column.min()), int(column.max())) if len(column) else (0, 0) for column in columns]
    bits = [(high - low).bit_length() for low, high in spans]
    wide = [place for place, count in enumerate(bits) if count > _WIDE_BITS]
    free = _KEY_BITS - sum(count for count in bits if count <= _WIDE_BITS)
    if free < len(wide) * _LEAST_BITS:
        return np.lexsort(_packed(columns, spans)[::-1])
    key, prefix_bits = np.zeros(len(columns[0]), np.int64), 0
    for place, (column, (low, _), count) in enumerate(zip(columns, spans, bits, strict=True)):
        kept = min(count, free // len(wide)) if place in wide else count
        key = (key << kept) + ((column >> count - kept) - (low >> count - kept))
        prefix_bits = 0 if place in wide else prefix_bits + kept
    order = np.argsort(key, kind="stable")
    prefix = key[order] >> prefix_bits
    if any(_differ_within(prefix, columns[place][order]) for place in wide):
        return np.lexsort(_packed(columns, spans)[::-1])
    return order


def _differ_within(group: IntArray, values: IntArray) -> bool:
    """Return whether neighbours of one group have different values."""
    return bool(((group[1:] == group[:-1]) & (values[1:] != values[:-1])).any())


def _packed(columns: Sequence[IntArray], spans: Sequence[tuple[int, int]]) -> list[IntArray]:
    """Return fewer columns that sort alike: those of small range are packed into one number."""
    packed = [np.zeros(len(columns[0]), np.int64)]
    span = 1
    for column, (low, high) in zip(columns, spans, strict=True):
        width = high - low + 1
        if span * width < _PACKED_SPAN:
            packed[-1] = packed[-1] * width + (column - low)
            span *= width
        elif width < _PACKED_SPAN:
            packed.append(column - low)
            span = width
        else:
            packed.append(column)
            span = _PACKED_SPAN
    return packed


def sum_rows(state: State, keys: Sequence[str], amount: str) -> State:
    """Merge the rows that are equal in `keys`, adding up `amount`; the result is sorted by `keys`."""
    if not len(state[ENTITY]):
        return state
    ordered = take_rows(state, sorted_order([state[name] for name in keys]))
    starts = run_starts(*(ordered[name] for name in keys))
    return {name: ordered[name][starts] for name in keys} | {amount: np.add.reduceat(ordered[amount], starts)}


def drop_old(state: State, keep_ms: int) -> State:
    """Drop the rows more than `keep_ms` older than their entity's newest: no later moment can see them."""
    if not len(state[ENTITY]):
        return state
    starts = run_starts(state[ENTITY])
    newest = np.maximum.reduceat(state["time"], starts)
    lengths = np.diff(starts, append=len(state[ENTITY]))
    kept = state["time"] >= np.repeat(newest - keep_ms, lengths)
    return state if kept.all() else take_rows(state, kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedStates:
    """Blobs of entities 0, 1, ..., of which any part can be unpacked.

    Attributes:
        words: Of all blobs.
        columns: Of each of the `S` states, without `entity`.
        at_SE: Where each entity's rows of each state begin.
        counts_SE: How many rows these are.
    """

    words: IntArray
    columns: Sequence[Sequence[str]]
    at_SE: Sequence[IntArray]
    counts_SE: Sequence[IntArray]

    @classmethod
    def of_blobs(cls, blobs: Sequence[bytes | None], columns: Sequence[Sequence[str]], layout: int) -> PackedStates:
        """Look into blobs; for arguments and errors see `unpack_states`."""
        sizes = np.array([0 if blob is None else len(blob) for blob in blobs], dtype=np.int64)
        present = np.array([blob is not None for blob in blobs], dtype=bool)
        cut = sizes[present & ((sizes % 8 != 0) | (sizes == 0))]
        if len(cut):
            raise StaleStateError(f"state: expected whole words of 8 bytes, got {cut[0]} bytes; fill the store again")
        words = np.frombuffer(b"".join(blob for blob in blobs if blob is not None), dtype="<i8")
        starts = offsets_from_lengths(sizes // 8)[:-1]
        found = {int(word) for word in words[starts[present]].view(np.uint64)} - {layout}
        if found:
            raise StaleStateError(
                f"state: expected layout {layout:016x}, got {min(found):016x}; the features changed since it was "
                "written: build them and fill the store again"
            )
        at, at_SE, counts_SE = starts + 1 + len(columns), [], []
        for number, names in enumerate(columns):
            counts = np.zeros(len(blobs), np.int64)
            counts[present] = words[starts[present] + 1 + number]
            at_SE.append(at)
            counts_SE.append(counts)
            at = at + counts * len(names)
        return cls(words=words.astype(np.int64, copy=False), columns=columns, at_SE=at_SE, counts_SE=counts_SE)

    def rows(self, number: int, entities: IntArray | None = None) -> State:
        """Return the rows of one state, of all entities or of these, which increase."""
        at, counts = self.at_SE[number], self.counts_SE[number]
        chosen = np.arange(len(at)) if entities is None else entities
        counts = counts[chosen]
        place, step = concat_ranges(at[chosen], counts), np.repeat(counts, counts)
        state = {ENTITY: np.repeat(chosen, counts)}
        for name in self.columns[number]:
            state[name] = self.words[place]
            place += step
        return state

    def replaced(self, states: Sequence[State], layout: int) -> list[bytes]:
        """Return the blobs with these rows in place of those that their entities had.

        Args:
            states: `S` states, sorted by entity; what an entity had stays as it is where it has no rows here.
            layout: See the module.
        """
        parts, sizes = [], [np.full(len(self.at_SE[0]), np.uint64(layout)).view(np.int64)]
        for number, state in enumerate(states):
            counts, width = np.bincount(state[ENTITY], minlength=len(sizes[0])), len(state) - 1
            offsets = offsets_from_lengths(counts * width)
            words = np.empty(offsets[-1], dtype="<i8")
            _lay_out(state, counts, words, offsets[:-1])
            sizes.append(np.where(counts, counts, self.counts_SE[number]))
            first = 8 * np.where(counts, offsets[:-1], self.at_SE[number])
            slices = zip((counts > 0).tolist(), first.tolist(), (first + 8 * width * sizes[-1]).tolist(), strict=True)
            sources = _bytes(self.words), _bytes(words)
            parts.append([sources[is_new][start:end] for is_new, start, end in slices])
        headers = memoryview(np.stack(sizes, axis=1).astype("<i8").tobytes())
        step = 8 * len(sizes)
        parts.insert(0, [headers[start : start + step] for start in range(0, len(headers), step)])
        return [b"".join(sections) for sections in zip(*parts, strict=True)]


def pack_states(states: Sequence[State], entities: int, layout: int) -> pa.BinaryArray:
    """Pack the states of `entities` entities, numbered from 0.

    Args:
        states: `S` states, sorted by entity.
        entities: Number of entities.
        layout: See the module.

    Returns:
        One blob per entity.
    """
    counts_SE = [np.bincount(state[ENTITY], minlength=entities) for state in states]
    widths = [len(state) - 1 for state in states]
    header = 1 + len(states)
    sizes_E = header + sum(counts * width for counts, width in zip(counts_SE, widths, strict=True))
    offsets = offsets_from_lengths(np.broadcast_to(sizes_E, entities))
    words = np.empty(offsets[-1], dtype="<i8")
    words[offsets[:-1]] = np.uint64(layout).astype(np.int64)
    at_E = offsets[:-1] + header
    for number, (state, counts) in enumerate(zip(states, counts_SE, strict=True)):
        words[offsets[:-1] + 1 + number] = counts
        _lay_out(state, counts, words, at_E)
        at_E = at_E + counts * widths[number]
    ends = pa.array(offsets * 8, pa.int64())
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), entities, [None, ends.buffers()[1], pa.py_buffer(words)]
    ).cast(pa.binary())


def unpack_states(blobs: Sequence[bytes | None], columns: Sequence[Sequence[str]], layout: int) -> list[State]:
    """Unpack the blobs of entities 0, 1, ...; None is an entity without a state.

    Args:
        blobs: `B` blobs or None.
        columns: Of each of the `S` states, without `entity`.
        layout: What the blobs must have been packed with.

    Raises:
        StaleStateError: A blob was packed with another layout.
    """
    packed = PackedStates.of_blobs(blobs, columns, layout)
    return [packed.rows(number) for number in range(len(columns))]


def _lay_out(state: State, counts: IntArray, words: IntArray, at_E: IntArray) -> None:
    """Write the columns of each entity's rows one after the other: one place per row, then a step per column."""
    place, step = concat_ranges(at_E, counts), np.repeat(counts, counts)
    for name, column in state.items():
        if name != ENTITY:
            words[place] = column
            place += step


def _bytes(words: IntArray) -> memoryview:
    return words.data.cast("B") if len(words) else memoryview(b"")
