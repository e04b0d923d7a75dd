"""A 64-bit hash of strings and numbers that is the same in every process, on every machine and for every chunking.

One algorithm, `h = mix((h ^ word) + GOLDEN)` over the little-endian 8-byte words of a value, zero-padded, then
`mix(h ^ length)`; `mix` is the finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, OOPSLA 2014). It shards pipelines, names rows without an id and addresses hashed embeddings; it is no
protection against somebody who looks for collisions. Golden values in the tests pin it.

Legend: `N` values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

HashArray = npt.NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLY_1, MULTIPLY_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_BLOCK = 1 << 15
"""Strings hashed at a time: few enough that their hashes and words stay in the processor's cache."""
NULL_LENGTH = _MASK
"""A null hashes like an empty value of this length, so that it differs from the empty string."""


def hash_strings(values: pa.Array | pa.ChunkedArray, salt: int = 0) -> HashArray:
    """Hash each string (or binary) value.

    Args:
        values: `N` strings; nulls are allowed and all hash alike.
        salt: Different salts give independent hashes of the same value, 0 <= salt < 2**64.

    Returns:
        `N` hashes, uint64.

    Example:
        >>> hash_strings(pa.array(["u1", "u2", "u1"])).tolist()
        [8236597345278379645, 18009197624747796213, 8236597345278379645]
    """
    if isinstance(values, pa.ChunkedArray):
        return np.concatenate([np.empty(0, np.uint64), *(hash_strings(chunk, salt) for chunk in values.chunks)])
    text = values.cast(pa.large_binary())
    offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    lengths = np.diff(offsets)
    if text.null_count:
        lengths = np.where(np.asarray(text.is_valid()), lengths, 0)
    hashes = _hash_words(_words(text.buffers()[2], int(offsets[-1])), offsets[:-1], lengths, salt)
    tail = lengths.astype(np.uint64)
    if text.null_count:
        tail[np.asarray(text.is_null())] = NULL_LENGTH
    return _mix(hashes ^ tail)


def hash_integers(values: npt.NDArray[np.integer], salt: int = 0) -> HashArray:
    """Hash each integer as one 8-byte word; shape `[N]` in and out."""
    start = np.uint64(reference_mix(salt + GOLDEN & _MASK))
    return _mix(_mix((start ^ values.astype(np.int64).view(np.uint64)) + np.uint64(GOLDEN)) ^ np.uint64(8))


def combine_hashes(*columns: HashArray) -> HashArray:
    """Hash tuples: column k holds the hashes of the k-th members; the order of the columns matters."""
    combined = np.full(len(columns[0]), reference_mix(GOLDEN), dtype=np.uint64)
    for column in columns:
        combined = _mix((combined ^ column) + np.uint64(GOLDEN))
    return combined


def hex_digits(hashes: HashArray) -> pa.StringArray:
    """Write each hash as 16 hexadecimal digits.

    Example:
        >>> hex_digits(np.array([255, 1 << 60], dtype=np.uint64)).to_pylist()
        ['00000000000000ff', '1000000000000000']
    """
    digits = hashes.astype(">u8").tobytes().hex().encode()
    offsets = np.arange(len(hashes) + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(len(hashes), pa.py_buffer(offsets), pa.py_buffer(digits))


def reference_hash(value: bytes | None, salt: int = 0) -> int:
    """Return the same hash as `hash_strings`, one value at a time in plain Python."""
    state = reference_mix(salt + GOLDEN & _MASK)
    content = value or b""
    for start in range(0, len(content), 8):
        word = int.from_bytes(content[start : start + 8], "little")
        state = reference_mix((state ^ word) + GOLDEN & _MASK)
    return reference_mix(state ^ (NULL_LENGTH if value is None else len(content)))


def reference_mix(word: int) -> int:
    """Return the splitmix64 finaliser of one 64-bit word."""
    word = (word ^ word >> 30) * MULTIPLY_1 & _MASK
    word = (word ^ word >> 27) * MULTIPLY_2 & _MASK
    return word ^ word >> 31


def _mix(words: HashArray) -> HashArray:
    """Apply the finaliser in place and return its argument: callers give it an array that is theirs."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(MULTIPLY_1)
    words ^= words >> np.uint64(27)
    words *= np.uint64(MULTIPLY_2)
    words ^= words >> np.uint64(31)
    return words


def _words(content: pa.Buffer | None, used_bytes: int) -> HashArray:
    """View the 8 bytes that start at every byte, little endian; zero-padded so that the last byte has 8, too."""
    padded = np.zeros(used_bytes + 8, dtype=np.uint8)
    if content is not None:
        padded[:used_bytes] = np.frombuffer(content, dtype=np.uint8, count=used_bytes)
    return np.ndarray(shape=(used_bytes + 1,), dtype="<u8", buffer=padded, strides=(1,))


def _hash_words(
    words: HashArray, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], salt: int
) -> HashArray:
    hashes = np.full(len(starts), reference_mix(salt + GOLDEN & _MASK), dtype=np.uint64)
    for first in range(0, len(starts), _BLOCK):
        block = slice(first, first + _BLOCK)
        _absorb(hashes[block], words, starts[block], lengths[block])
    return hashes


def _absorb(hashes: HashArray, words: HashArray, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
    """Mix the words of a block's values into their hashes, in place."""
    common = int(lengths.min()) // 8 * 8
    for consumed in range(0, common, 8):
        hashes ^= words[starts + consumed]
        hashes += np.uint64(GOLDEN)
        _mix(hashes)
    for consumed in range(common, int(lengths.max()), 8):
        active = np.flatnonzero(lengths > consumed)
        left = np.minimum(lengths[active] - consumed, 8).astype(np.uint64)
        word = words[starts[active] + consumed]
        word &= np.uint64(_MASK) >> (np.uint64(64) - np.uint64(8) * left)
        word ^= hashes[active]
        word += np.uint64(GOLDEN)
        hashes[active] = _mix(word)
