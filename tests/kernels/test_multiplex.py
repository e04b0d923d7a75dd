"""Rows of a shared table: golden values, the slow reference, uniformity, independence of features and probes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from kernels.hashing import hash_strings
from kernels.multiplex import MOST_ROWS, feature_salt, multiplex_rows, reference_row

COLORS = hash_strings(pa.array(["red", "green", "blue", ""]))
IDS = hash_strings(pa.array([f"item-{number}" for number in range(20_000)]))


def test_golden_values_never_change():
    salts = [feature_salt("color"), feature_salt("color", 1), feature_salt("item_id")]
    assert [f"{salt:016x}" for salt in salts] == ["14482bc2c72e2625", "5578e2a9fd199646", "174768779c8e7431"]
    assert multiplex_rows("color", COLORS, 1000).tolist() == [42, 872, 812, 135]
    assert multiplex_rows("color", COLORS, 1000, 1).tolist() == [805, 303, 234, 695]
    assert multiplex_rows("item_id", COLORS, 1000).tolist() == [980, 20, 694, 842]
    assert multiplex_rows("item_id", COLORS, 3_000_000_000).tolist() == [2941007910, 60343517, 2083182318, 2526774745]


@settings(max_examples=100, deadline=None)
@given(
    name=st.text(min_size=1, max_size=20),
    hashes=st.lists(st.integers(0, 2**64 - 1), max_size=20),
    rows=st.integers(1, MOST_ROWS),
    probe=st.integers(0, 8),
)
def test_equals_the_reference(name, hashes, rows, probe):
    expected = [reference_row(name, value, rows, probe) for value in hashes]
    assert multiplex_rows(name, np.array(hashes, dtype=np.uint64), rows, probe).tolist() == expected
    assert all(0 <= row < rows for row in expected)


@pytest.mark.parametrize("rows", [7, 128, 1000])
def test_rows_are_uniform(rows):
    for probe in range(2):
        counts = np.bincount(multiplex_rows("item_id", IDS, rows, probe), minlength=rows)
        assert chisquare(counts).pvalue > 0.001


def test_values_that_are_small_numbers_spread_too():
    counts = np.bincount(multiplex_rows("price", np.arange(20_000, dtype=np.uint64), 100), minlength=100)
    assert chisquare(counts).pvalue > 0.001


def test_distinct_rows_of_one_feature_are_as_many_as_of_random_draws():
    rows = 20_000
    filled = len(np.unique(multiplex_rows("item_id", IDS, rows)))
    assert filled == pytest.approx(rows * (1 - (1 - 1 / rows) ** len(IDS)), rel=0.01)


@pytest.mark.parametrize(("second", "probe"), [("item_id", 1), ("user_id", 0)])
def test_probes_and_features_are_independent(second, probe):
    grid = 10
    one, other = multiplex_rows("item_id", IDS, grid), multiplex_rows(second, IDS, grid, probe)
    assert chisquare(np.bincount(one * grid + other, minlength=grid * grid)).pvalue > 0.001


def test_values_that_collide_in_one_probe_rarely_do_in_the_other():
    rows = 100
    first, second = (multiplex_rows("item_id", IDS, rows, probe) for probe in range(2))
    together = IDS[first == first[0]]
    assert len(together) == pytest.approx(len(IDS) / rows, rel=0.3)
    both = np.count_nonzero((first == first[0]) & (second == second[0]))
    assert both <= 10  # 1 + 200/100 expected


def test_rows_of_a_feature_depend_on_its_name_alone():
    alone = {"item_id": multiplex_rows("item_id", IDS[:50], 999)}
    among = {name: multiplex_rows(name, IDS[:50], 999) for name in ("a_new_one", "item_id", "user_id")}
    assert among["item_id"].tolist() == alone["item_id"].tolist()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=f"1 to {MOST_ROWS}, got 0"):
        multiplex_rows("color", COLORS, 0)
    with pytest.raises(ValueError, match="got '' and 0"):
        feature_salt("")
    with pytest.raises(ValueError, match="got 'color' and -1"):
        multiplex_rows("color", COLORS, 10, -1)
