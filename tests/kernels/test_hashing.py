"""The 64-bit hash: golden values, the slow reference, independence of chunking and process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.hashing import combine_hashes, hash_integers, hash_strings, hex_digits, reference_hash

TEXTS = st.lists(st.none() | st.text(max_size=40), max_size=30)

GOLDEN = [
    "48218226ff3cd4bf",
    "3b392ab9b7d1f54e",
    "08174bd3c3095e1e",
    "57752d0cbf343844",
    "43f7b334c345b99d",
    "f2c27ef86a95b080",
]
GOLDEN_INTEGERS = ["07fbfe5cba9161fb", "258e3029a2f605f2", "938e80ae1084d7ba"]


def test_golden_values_never_change():
    values = pa.array(["", "a", "user-1", "12345678", "123456789", None])
    expected = [reference_hash(None if value is None else value.encode()) for value in values.to_pylist()]
    assert hash_strings(values).tolist() == expected
    assert hex_digits(hash_strings(values)).to_pylist() == GOLDEN
    assert hex_digits(hash_integers(np.array([0, 1, -1]))).to_pylist() == GOLDEN_INTEGERS


@settings(max_examples=50, deadline=None)
@given(texts=TEXTS, salt=st.integers(0, 2**64 - 1), cut=st.integers(0, 30))
def test_equals_the_reference_for_any_slice_and_chunking(texts, salt, cut):
    expected = [reference_hash(None if text is None else text.encode(), salt) for text in texts]
    whole = pa.array(texts, pa.string())
    assert hash_strings(whole, salt).tolist() == expected
    assert hash_strings(whole.slice(cut), salt).tolist() == expected[cut:]
    assert hash_strings(pa.chunked_array([whole.slice(0, cut), whole.slice(cut)]), salt).tolist() == expected


def test_integers_hash_like_their_eight_bytes():
    numbers = np.array([0, 7, -7, 2**62])
    expected = [reference_hash(int(number).to_bytes(8, "little", signed=True), 3) for number in numbers]
    assert hash_integers(numbers, 3).tolist() == expected


def test_null_differs_from_empty_and_salts_from_each_other():
    assert len(set(hash_strings(pa.array(["", None])).tolist())) == 2
    assert hash_strings(pa.array(["a"]), 0) != hash_strings(pa.array(["a"]), 1)


def test_combination_depends_on_the_order_of_columns():
    first, second = hash_strings(pa.array(["a", "b"])), hash_strings(pa.array(["b", "a"]))
    both = combine_hashes(first, second)
    assert both[0] != both[1]


def test_ten_thousand_ids_fill_sixteen_shards_evenly():
    shards = hash_strings(pa.array([f"user-{number}" for number in range(10_000)])) % np.uint64(16)
    counts = np.bincount(shards.astype(int), minlength=16)
    assert abs(counts - 625).max() < 5 * np.sqrt(625)


def test_another_process_hashes_alike():
    code = "import pyarrow as pa; from kernels.hashing import hash_strings; print(hash_strings(pa.array(['x']))[0])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == int(hash_strings(pa.array(["x"]))[0])


def test_more_strings_than_a_block_hash_like_pieces_of_them():
    numbers = np.arange(100_000)
    strings = pa.array([f"{'long ' * (number % 5)}{number}" for number in numbers])
    pieces = [hash_strings(strings.slice(start, 7_001)) for start in range(0, 100_000, 7_001)]
    hashes = hash_strings(strings)
    assert np.array_equal(hashes, np.concatenate(pieces))
    assert [int(hashes[row]) for row in (0, 32_767, 32_768, 99_999)] == [
        reference_hash(strings[row].as_py().encode()) for row in (0, 32_767, 32_768, 99_999)
    ]
