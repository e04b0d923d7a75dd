"""Ids: length in bytes, control characters."""

from __future__ import annotations

import pyarrow as pa
import pytest

from features.ids import absent_ids, is_id, wrong_ids
from features.schemas import MOST_ID_BYTES


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("user 7", True),
        ("a" * MOST_ID_BYTES, True),
        ("a" * (MOST_ID_BYTES + 1), False),
        ("\u00e9" * (MOST_ID_BYTES // 2), True),
        ("\u00e9" * (MOST_ID_BYTES // 2 + 1), False),
        ("tab\t", False),
        ("null\x00", False),
        ("delete\x7f", False),
        ("\u00a0 and \u20ac", True),
    ],
)
def test_length_counts_bytes_and_controls_are_refused(text: str, good: bool) -> None:
    assert is_id(text) == good
    assert wrong_ids(pa.array([text])).tolist() == [not good]
    assert wrong_ids(pa.chunked_array([["plain", None], [text, ""]])).tolist() == [False, False, not good, False]


def test_blanks_are_no_id_of_anybody():
    assert [is_id(text) for text in ("", " ", "\u00a0")] == [False] * 3
    assert absent_ids(pa.array(["", " ", "\u00a0", None, " a "])).tolist() == [True] * 4 + [False]


def test_slices_and_nothing() -> None:
    assert wrong_ids(pa.array(["a\n", "b", "c\n"]).slice(1)).tolist() == [False, True]
    assert wrong_ids(pa.array([], pa.string())).tolist() == []
