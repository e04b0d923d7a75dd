"""Layouts of one table: bytes by hand, budgets kept, rows in range, who shares rows with whom."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kernels.hashing import hash_strings
from kernels.multiplex import multiplex_rows
from models.compression.config import COLLISIONLESS, METHODS, MULTI_PROBE, MULTIPLEXED, PER_FEATURE, QUOTIENT_REMAINDER
from models.compression.layouts import Field, Layout, build_layout, collisionless_bytes

WIDTH = 4
ROW_BYTES = 4 * WIDTH


def field(name: str, size: int) -> Field:
    return Field(name=name, values_V=np.unique(hash_strings(pa.array([f"{name}-{number}" for number in range(size)]))))


USER, ITEM, GENDER = field("user", 300), field("item", 100), field("gender", 2)
FIELDS = (USER, ITEM, GENDER)
COLUMNS = {one.name: np.resize(one.values_V, 300) for one in FIELDS}


def laid_out(method: str, rows: int, fields: tuple[Field, ...] = FIELDS) -> Layout:
    return build_layout(method, fields, width=WIDTH, budget_bytes=rows * ROW_BYTES, exact_values=8, probes=2)


def test_bytes_of_a_row_per_value():
    assert collisionless_bytes(FIELDS, WIDTH) == (301 + 101 + 3) * 16
    layout = laid_out(COLLISIONLESS, 405)
    assert layout.bytes == 405 * 16
    rows = layout.place(COLUMNS)
    assert rows.shape == (300, 3, 1)
    assert len(np.unique(rows[:, 0])) == 300
    assert sorted(np.unique(rows[:, 2])) == [403, 404]


@pytest.mark.parametrize("method", [PER_FEATURE, MULTIPLEXED, MULTI_PROBE, QUOTIENT_REMAINDER])
@pytest.mark.parametrize("rows", [7, 8, 23, 43, 203, 405])
def test_every_method_uses_its_whole_budget_and_no_more(method, rows):
    layout = laid_out(method, rows)
    assert layout.bytes == rows * ROW_BYTES
    placed = layout.place(COLUMNS)
    assert placed.shape == (300, 3, 2 if method in (MULTI_PROBE, QUOTIENT_REMAINDER) else 1)
    assert placed.min() >= 0
    assert placed.max() < layout.rows + layout.product
    assert layout.width * (1 if layout.product else placed.shape[2]) == WIDTH


@pytest.mark.parametrize("method", METHODS)
def test_tiny_fields_are_exact(method):
    placed = laid_out(method, 405).place(COLUMNS)[:, 2]
    assert len(np.unique(placed, axis=0)) == 2
    others = laid_out(method, 405).place(COLUMNS)[:, :2]
    assert not set(placed[:, 0].tolist()) & set(others[..., 0].ravel().tolist())


def test_separate_rows_are_proportional_to_the_vocabularies():
    layout = laid_out(PER_FEATURE, 3 + 40)
    user, item = layout.lookups["user"], layout.lookups["item"]
    assert (user.start, user.size, item.start, item.size) == (3, 30, 33, 10)


def test_shared_rows_are_those_of_the_kernel():
    layout = laid_out(MULTIPLEXED, 3 + 40)
    assert layout.place(COLUMNS)[:, 1, 0].tolist() == (3 + multiplex_rows("item", COLUMNS["item"], 40)).tolist()
    assert layout.place(COLUMNS)[:, :2].max() > 3 + 30


def test_two_probes_have_rows_of_half_the_width_and_twice_as_many():
    layout = laid_out(MULTI_PROBE, 3 + 40)
    assert (layout.width, layout.rows) == (2, 86)
    placed = layout.place({name: values[:2] for name, values in COLUMNS.items()})
    assert placed[:, 2].tolist() == [[2, 3], [4, 5]]
    second = 6 + multiplex_rows("user", COLUMNS["user"][:2], 80, probe=1)
    assert placed[:, 0, 1].tolist() == second.tolist()


def test_quotients_and_remainders_tell_all_values_apart_where_the_budget_allows():
    layout = laid_out(QUOTIENT_REMAINDER, 3 + 160)
    user = layout.lookups["user"]
    assert (user.remainders, user.quotients) == (117, 3)  # 117 * 3 >= 301, 118 * 2 < 301
    placed = layout.place(COLUMNS)
    assert len(np.unique(placed[:, 0], axis=0)) == 300
    assert layout.first_factor == 3 + 117 + layout.lookups["item"].remainders
    assert placed[:, 0, 1].min() >= layout.first_factor
    assert set(placed[:, 2, 1].tolist()) == {layout.rows}


def test_quotients_of_too_few_rows_share():
    layout = laid_out(QUOTIENT_REMAINDER, 3 + 16)
    user = layout.lookups["user"]
    assert (user.remainders, user.quotients) == (6, 6)
    assert len(np.unique(layout.place(COLUMNS)[:, 0], axis=0)) == 36


def test_unknown_values_have_a_row_of_their_own_or_are_hashed():
    new = {name: hash_strings(pa.array(["never seen", "nor this"])) for name in COLUMNS}
    exact = laid_out(COLLISIONLESS, 405).place(new)[:, :, 0]
    assert exact.tolist() == [[0, 301, 402]] * 2
    hashed = laid_out(MULTIPLEXED, 203).place(new)[:, :, 0]
    assert hashed[0, 0] != hashed[1, 0]


def test_only_tiny_fields_need_no_shared_rows():
    assert laid_out(MULTIPLEXED, 10, (GENDER,)).rows == 3


@pytest.mark.parametrize(
    ("method", "least"), [(COLLISIONLESS, 405), (PER_FEATURE, 5), (MULTIPLEXED, 4), (QUOTIENT_REMAINDER, 7)]
)
def test_too_small_a_budget_is_told(method, least):
    with pytest.raises(ValueError, match=f"{method}: expected a budget of at least {least * 16} bytes, got"):
        laid_out(method, least - 1)
    laid_out(method, least)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="unknown method 'robe'; expected one of collisionless"):
        laid_out("robe", 100)
    with pytest.raises(ValueError, match="divisor of the width 4, got 3"):
        build_layout(MULTI_PROBE, FIELDS, width=4, budget_bytes=9999, exact_values=8, probes=3)
