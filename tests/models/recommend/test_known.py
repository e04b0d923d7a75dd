"""What requests carry beside histories, from tables and from what a store knows of users."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from release_cases import commit, make_workspace

from features.columns import Columns
from features.definitions import USER, feature_schemas, features_of, memories_of, state_layout
from features.folds import NUMBER
from features.schemas import CLICK, EVENT_CODE, PAGES, USERS, VALIDATION
from features.semantic_ids import Catalogue
from features.states import StaleStateError, pack_states
from features.store.base import Histories, KnownUsers
from features.values import finish_users
from features.workspace import Workspace
from kernels.hashing import hash_strings
from models.recommend.known import columns_of_pages, request_of_users
from models.recommend.requests import cases_from_table, requests_from_sequences

CATALOGUE = Catalogue(["i1", "i2", "i3"], np.array([[0], [1], [2]]), (3,))


def hashed(*values: str) -> list[int]:
    return hash_strings(pa.array(values)).tolist()


def values_of(columns: Columns, name: str) -> list[list[int]]:
    column = columns.ids[name]
    return [column.hashes[start:end].tolist() for start, end in zip(column.offsets, column.offsets[1:], strict=False)]


def page(request_id: str, user_id: str, context: dict[str, str] | None) -> dict:
    return {
        "request_id": request_id,
        "user_id": user_id,
        "timestamp": 0,
        "items": [],
        "events": [],
        "event_times": [],
        "context": None if context is None else list(context.items()),
    }


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    pages = [page("p1", "ann", {"device": "phone"}), page("p2", "bob", None), page("p3", "ann", {"page": "home"})]
    commit(workspace, "pages", pa.Table.from_pylist(pages, PAGES))
    users = [
        {"user_id": "ann", "attributes": [("plan", "gold"), ("age", None)]},
        {"user_id": "bob", "attributes": None},
    ]
    commit(workspace, "clean_users", pa.Table.from_pylist(users, USERS))
    return workspace


def test_pages_have_their_context_and_the_attributes_of_their_user(workspace):
    columns = columns_of_pages(workspace, pa.array(["p3", "p2", "p1", "gone"]), pa.array(["ann", "bob", "ann", "eve"]))
    assert sorted(columns.ids) == ["context.device", "context.page", "user.plan"]
    assert values_of(columns, "user.plan") == [hashed("gold"), [], hashed("gold"), []]
    assert values_of(columns, "context.device") == [[], [], hashed("phone"), []]
    assert values_of(columns, "context.page") == [hashed("home"), [], [], []]


def test_pages_have_the_features_that_were_computed_for_them(workspace):
    schema = feature_schemas()["page_features"]
    first = next(feature.name for feature in features_of(USER) if feature.kind == NUMBER)
    row = {"request_id": "p1", "user_id": "ann", "timestamp": 0, first: 7.0}
    commit(workspace, "page_features", pa.Table.from_pylist([row], schema))
    columns = columns_of_pages(workspace, pa.array(["p2", "p1"]), pa.array(["bob", "ann"]))
    default = next(feature.default for feature in features_of(USER) if feature.name == first)
    assert columns.numbers[first].tolist() == [default, 7.0]
    assert set(columns.numbers) | set(columns.ids) >= {feature.name for feature in features_of(USER)}


def test_a_workspace_without_these_tables_gives_no_columns(tmp_path):
    columns = columns_of_pages(Workspace(tmp_path), pa.array(["p1"]), pa.array(["ann"]))
    assert (columns.rows, dict(columns.ids), dict(columns.numbers)) == (1, {}, {})


def test_cases_carry_columns_in_their_own_order(tmp_path):
    workspace = make_workspace(tmp_path)
    catalogue = Catalogue([f"i{n:02d}" for n in range(12)], np.arange(12)[:, None], (12,))
    users = [{"user_id": f"u{n}", "attributes": [("number", str(n))]} for n in range(10)]
    commit(workspace, "clean_users", pa.Table.from_pylist(users, USERS))
    pages = [page(f"u{n}-4", f"u{n}", {"device": f"d{n}"}) for n in reversed(range(10))]
    commit(workspace, "pages", pa.Table.from_pylist(pages, PAGES))
    requests = requests_from_sequences(workspace, catalogue, VALIDATION, max_history=5).requests
    assert requests.user_ids == [f"u{n}" for n in range(10)]
    assert values_of(requests.columns, "user.number") == [hashed(str(n)) for n in range(10)]
    taken = requests.take(np.array([7, 2])).columns
    assert values_of(taken, "context.device") == [hashed("d7"), hashed("d2")]
    plain = requests_from_sequences(workspace, catalogue, VALIDATION, max_history=5, columns=False).requests
    table = cases_from_table(workspace.table("sequences").read(), catalogue, VALIDATION, max_history=5).requests
    assert plain.columns is None
    assert table.columns is None
    np.testing.assert_array_equal(table.history_items, requests.history_items)


def known(states: list[bytes | None]) -> KnownUsers:
    """`a` with three events and attributes, `b` with one event; the rest strangers."""
    rest = len(states) - 2
    histories = Histories(
        user_ids=["a", "b", *(f"stranger{n}" for n in range(rest))],
        offsets=np.array([0, 3, 4, *[4] * rest]),
        item_ids=pa.array(["i1", "gone", "i2", "i3"]),
        events=np.full(4, EVENT_CODE[CLICK], np.int8),
        times=np.array([1, 2, 100, 99]),
    )
    return KnownUsers(histories=histories, states=states, attributes=[{"plan": "gold"}, *[None] * (rest + 1)])


def test_requests_leave_out_unknown_items_and_what_is_not_yet_past():
    batch = request_of_users(known([None] * 3), CATALOGUE, np.array([100, 100, 100]))
    assert batch.history_offsets.tolist() == [0, 1, 2, 2]
    assert CATALOGUE.ids(batch.history_items) == ["i1", "i3"]
    assert batch.times_B.tolist() == [100, 100, 100]


def test_requests_carry_features_attributes_and_contexts():
    packed = pack_states([memory.empty() for memory in memories_of(features_of(USER))], 1, state_layout())
    states, times_B = [packed[0].as_py(), None], np.array([100, 200])
    batch = request_of_users(known(states), CATALOGUE, times_B, [None, {"device": "phone"}])
    assert values_of(batch.columns, "user.plan") == [hashed("gold"), []]
    assert values_of(batch.columns, "context.device") == [[], hashed("phone")]
    expected = finish_users(states, times_B)
    for name, values in expected.numbers.items():
        np.testing.assert_array_equal(batch.columns.numbers[name], values)
    assert set(expected.ids) <= set(batch.columns.ids)


def test_states_of_other_features_are_refused():
    packed = pack_states([memory.empty() for memory in memories_of(features_of(USER))], 1, state_layout() ^ 1)
    with pytest.raises(StaleStateError, match="the features changed since it was written"):
        request_of_users(known([packed[0].as_py(), None]), CATALOGUE, np.array([100, 100]))


def test_strangers_are_requests_too():
    batch = request_of_users(KnownUsers.strangers(["x", "y"]), CATALOGUE, np.array([5, 6]))
    assert batch.history_offsets.tolist() == [0, 0, 0]
    assert batch.columns.rows == 2
    assert batch.user_ids == ["x", "y"]
