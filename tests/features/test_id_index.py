"""Places of ids in a fixed list."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import id_index
from features.id_index import ABSENT, IdIndex

IDS = st.lists(st.text(max_size=3), unique=True, max_size=20)


@settings(max_examples=60, deadline=None)
@given(IDS, st.lists(st.none() | st.text(max_size=3), max_size=20))
def test_equal_to_index_in(ids: list[str], wanted: list[str | None]) -> None:
    values = pa.array(ids, pa.string())
    asked = pa.array([*wanted, *ids], pa.string())
    expected = pc.fill_null(pc.index_in(asked, value_set=values), ABSENT).to_pylist()
    assert IdIndex(values).find(asked).tolist() == expected
    assert IdIndex(values).find(pa.chunked_array([asked[:3], asked[3:]])).tolist() == expected


def test_an_unknown_id_with_a_known_hash_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "hash_strings", lambda ids: np.array([len(text) for text in ids.to_pylist()]))
    index = IdIndex(pa.array(["a", "bb", "ccc"]))
    assert index.find(pa.array(["bb", "xx", "cccc"])).tolist() == [1, ABSENT, ABSENT]


def test_two_ids_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "hash_strings", lambda ids: np.zeros(len(ids), np.uint64))
    assert IdIndex(pa.array(["a", "b"])).find(pa.array(["b", "a", "c"])).tolist() == [1, 0, ABSENT]
